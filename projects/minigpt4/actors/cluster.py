# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The Ray cluster of a command: its address, and the actors that fit in it.

:func:`use_ray` connects for the time of a command. What runs in the actors
is in :mod:`.actor`, what gives them work in :mod:`.chunks`.
"""

import contextlib
import importlib.util
import logging
import os
import signal
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from mmengine.logging import print_log

from ..utils.errors import one_line, printable
from ..utils.signals import STOP_SIGNALS

AUTO = 'auto'  # the cluster that runs on this machine, or else a new one
LOCAL = 'local'  # a new one
_CONNECT_SECONDS = 5.0
_NO_CLUSTER = 'Could not find any running Ray instance'  # of Ray's error
# Ray reads them when it is imported; those of the user stay
_VARIABLES = {
    'RAY_USAGE_STATS_ENABLED': '0',  # sends no report to its makers
    'RAY_raylet_start_wait_time_s': '120',  # a busy machine starts slowly
}
# where Ray 2.60 looks for its token: variables with it and its file, a file
_TOKEN_VARIABLES = ('RAY_AUTH_TOKEN', 'RAY_AUTH_TOKEN_PATH')
_TOKEN_FILE = '.ray/auth_token'  # in the home folder
# what an HTTP/2 client such as gRPC sends first: a fixed line, an empty frame
# of the type SETTINGS. The server answers with a frame of this type.
_PREFACE = b'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n' + bytes(3) + b'\x04' + bytes(5)
_SETTINGS_TYPE = b'\x04'  # the fourth byte of a frame
_STORE_BYTES = 512 * 2**20  # a chunk has at most some 10 MB


class ActorPlan(NamedTuple):
    """The actors of a cluster.

    Attributes:
        number: How many.
        cpus: CPUs, and threads, of each.
        gpus: GPUs of each: 0 or 1.
        machines: How many machines the cluster has.
    """

    number: int
    cpus: int
    gpus: int
    machines: int


class Cluster(NamedTuple):
    """A cluster that this process is connected to.

    Attributes:
        ray: The package ``ray``.
        plan: The actors.
    """

    ray: ModuleType
    plan: ActorPlan


# the clusters of use_ray, of which the last is used
clusters: list[Cluster] = []


def current_cluster() -> Cluster | None:
    """The cluster of the running command; None without ``--ray``."""
    return clusters[-1] if clusters else None


@contextlib.contextmanager
def use_ray(
    address: str | None, number: int | None = None, device: str | None = None
) -> Iterator[None]:
    """Connect to a cluster; :mod:`.chunks` uses it within this context.

    Args:
        address: ``'HOST:PORT'``, :data:`AUTO` or :data:`LOCAL`; None
            connects to none.
        number: How many actors; see :func:`plan_actors`.
        device: ``'cpu'`` uses no GPU.

    Raises:
        ImportError: Ray is not installed.
        ConnectionError: There is no cluster at the address.
        ValueError: The cluster has too few GPUs or CPUs for the actors, or
            ``RAY_ADDRESS`` is no address.
    """
    if address is None:
        yield
        return
    with _kept_signal_handlers():
        ray = _import_ray()
        # Ray would print the end of an actor on standard output, where the
        # results are; chunks.py reports it. There is no public setting.
        ray._private.worker._worker_logs_enabled = False
        _connect(ray, address)
    try:
        plan = plan_actors(
            [node['Resources'] for node in ray.nodes() if node['Alive']],
            number,
            device,
        )
        clusters.append(Cluster(ray, plan))
        try:
            yield
        finally:
            clusters.pop()
    finally:
        ray.shutdown()


def plan_actors(
    machines: Sequence[Mapping[str, float]],
    number: int | None = None,
    device: str | None = None,
) -> ActorPlan:
    """Divide the machines of a cluster into equal actors.

    Args:
        machines: The resources of each: ``CPU`` and ``GPU``.
        number: How many actors; None is one for each GPU. In a cluster
            without GPUs it is one for the smallest machine, and as many of
            the same size as fit into the others.
        device: ``'cpu'`` uses no GPU.

    Raises:
        ValueError: The machines have too few GPUs or CPUs.
    """
    pairs = [(int(m.get('CPU', 0)), int(m.get('GPU', 0))) for m in machines]
    with_gpu = [(cpu, gpu) for cpu, gpu in pairs if gpu]
    if with_gpu and device != 'cpu':
        total = sum(gpu for _, gpu in with_gpu)
        if number is not None and number > total:
            raise ValueError(
                f'--actors is {number}, but the cluster has {total} GPUs; '
                f'give at most {total}, or --device cpu.'
            )
        cpus = min(cpu // gpu for cpu, gpu in with_gpu)
        return ActorPlan(number or total, cpus, 1, len(pairs))
    shares = [cpu for cpu, _ in pairs if cpu]
    total = sum(shares)
    if not total:
        raise ValueError(
            'the cluster has neither GPUs nor CPUs for an actor; start its '
            'machines with some, such as "ray start --num-cpus 8".'
        )
    if number is None:
        cpus = min(shares)
        number = sum(share // cpus for share in shares)
        return ActorPlan(number, cpus, 0, len(pairs))
    if number > total:
        raise ValueError(
            f'--actors is {number}, but the cluster has {total} CPUs; give '
            'at most one actor for each.'
        )
    cpus = next(
        size
        for size in range(max(shares), 0, -1)
        if sum(share // size for share in shares) >= number
    )
    return ActorPlan(number, cpus, 0, len(pairs))


@contextlib.contextmanager
def _kept_signal_handlers() -> Iterator[None]:
    """Keep this process's handlers: the import of Ray replaces SIGTERM's."""
    handlers = {signum: signal.getsignal(signum) for signum in STOP_SIGNALS}
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # not the main thread
            for signum, handler in handlers.items():
                signal.signal(signum, handler)


def _import_ray() -> ModuleType:
    if importlib.util.find_spec('ray') is None:
        raise ImportError(
            '--ray needs the package ray, which is not installed; run: '
            "pip install 'minigpt4[ray]'."
        )
    for name, value in _VARIABLES.items():
        os.environ.setdefault(name, value)
    if _has_token():  # Ray itself does this only for address='auto'
        os.environ.setdefault('RAY_AUTH_MODE', 'token')
    import ray

    return ray


def _has_token() -> bool:
    """Whether this user has a token of Ray clusters."""
    if any(map(os.environ.get, _TOKEN_VARIABLES)):
        return True
    return (Path.home() / _TOKEN_FILE).is_file()


def check_address(address: str) -> None:
    """Check an address: ``HOST:PORT``, :data:`AUTO` or :data:`LOCAL`.

    Raises:
        ValueError: It is none of these; without a full stop.
    """
    host, _, port = address.rpartition(':')
    if address in (AUTO, LOCAL) or (
        host and '/' not in host and port.isdecimal() and int(port) < 2**16
    ):
        return
    raise ValueError(
        f'{printable(address)} is no address of a Ray cluster; expected '
        'HOST:PORT, auto or local'
    )


def _connect(ray: ModuleType, address: str) -> None:
    """Connect to a cluster, or start one.

    With :data:`AUTO` the address is that of ``RAY_ADDRESS``, if it is set.

    Raises:
        ConnectionError: There is no cluster at the address.
        ValueError: ``RAY_ADDRESS`` is no address.
    """
    options: dict[str, Any] = dict(
        log_to_driver=False, logging_level='ERROR', configure_logging=True
    )
    if address == AUTO:
        address = os.environ.get('RAY_ADDRESS') or AUTO
        try:
            check_address(address)
        except ValueError as error:
            raise ValueError(
                f'RAY_ADDRESS: {error}; set it to one of these, or unset it.'
            ) from error
    if address == AUTO:
        try:
            # where Ray would wait for minutes after the cluster was killed
            if last := ray._private.services.find_bootstrap_address(None):
                _require_listener(last)
            ray.init(address=AUTO, **options)
        except ConnectionError as error:
            address = LOCAL
            if _NO_CLUSTER not in str(error):
                print_log(
                    'the last Ray cluster of this machine cannot be used '
                    f'({one_line(error).rstrip(".")}); a new one of this '
                    'machine alone is started.',
                    'current',
                    logging.WARNING,
                )
        else:
            return
    if address == LOCAL:
        options.update(
            include_dashboard=False, object_store_memory=_STORE_BYTES
        )
    else:
        _require_listener(address)
    try:
        ray.init(address=address, **options)
    except Exception as error:  # of any kind, e.g. another program answers
        if address == LOCAL:
            raise ConnectionError(
                'Ray could not be started on this machine '
                f'({one_line(error)}); its logs are in the folder ray of the '
                'folder for temporary files.'
            ) from error
        raise ConnectionError(
            f'there is no Ray cluster at {printable(address)} that this '
            f'machine belongs to ({one_line(error)}); run "ray start '
            '--address=HOST:PORT" on this machine too, with the address that '
            '"ray start --head" printed.'
        ) from error


def _require_listener(address: str) -> None:
    """Refuse an address without Ray; Ray would try for minutes.

    Raises:
        ConnectionError: No gRPC server accepts a connection there.
    """
    host, _, port = address.rpartition(':')
    try:
        with socket.create_connection(
            (host.strip('[]'), int(port)), _CONNECT_SECONDS
        ) as connection:
            if os.environ.get('RAY_USE_TLS', '0') != '0':
                return
            connection.sendall(_PREFACE)
            is_grpc = connection.recv(4)[3:] == _SETTINGS_TYPE
    except OSError as error:
        raise ConnectionError(
            f'nothing answers at the Ray address {printable(address)} '
            f'({one_line(error)}); give the address that "ray start --head" '
            'printed.'
        ) from error
    if not is_grpc:
        raise ConnectionError(
            f'another program than Ray answers at {printable(address)}; give '
            'the address that "ray start --head" printed.'
        )
