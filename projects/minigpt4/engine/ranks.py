# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Communication of ranks: start, shared decisions, and a common stop."""

import os
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from mmengine.config import Config
from mmengine.dist import (
    broadcast_object_list,
    get_world_size,
    init_dist,
    is_distributed,
    is_main_process,
)
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from ..utils.errors import describe

T = TypeVar('T')

_LAUNCHER_VARIABLES = dict(
    pytorch=('RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT'),
    slurm=('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_NODELIST'),
    mpi=('OMPI_COMM_WORLD_LOCAL_RANK',),
)
_LAUNCHER_COMMANDS = dict(
    pytorch='tools/dist_train.sh, tools/dist_test.sh or torchrun',
    slurm='tools/slurm_train.sh or srun',
    mpi='mpirun',
)


class OtherRankError(RuntimeError):
    """Rank 0 has failed and reports the error; this rank only ends."""


def start_ranks(cfg: Config, launcher: str) -> None:
    """Join the process group: NCCL if there are GPUs, else gloo.

    mmengine's own start needs a GPU (it calls ``torch.cuda.set_device``), so
    on a CPU the group is created here, before the runner.

    Args:
        cfg: The config; its launcher is set.
        launcher: ``'none'``, ``'pytorch'``, ``'slurm'`` or ``'mpi'``.

    Raises:
        ValueError: The launcher cannot be used here.
    """
    cfg.launcher = launcher
    if launcher == 'none' or is_distributed():
        return
    if launcher != 'pytorch' and not torch.cuda.is_available():
        raise ValueError(
            f"launcher {launcher!r} needs GPUs; on CPUs use 'pytorch'."
        )
    required = _LAUNCHER_VARIABLES[launcher]
    missing = [name for name in required if name not in os.environ]
    if missing:
        raise ValueError(
            f'--launcher {launcher}: {", ".join(missing)} is not set; start '
            f'the tool with {_LAUNCHER_COMMANDS[launcher]}, or without '
            '--launcher.'
        )
    if torch.cuda.is_available():
        ranks = int(os.environ.get('LOCAL_WORLD_SIZE', 1))
        if ranks > torch.cuda.device_count():
            raise ValueError(
                f'{ranks} processes on this machine, but it has '
                f'{torch.cuda.device_count()} GPUs; start one for each GPU.'
            )
        init_dist(launcher, backend='nccl')
        return
    try:
        torch.distributed.init_process_group('gloo')
    except torch.distributed.DistNetworkError as error:
        if 'EADDRINUSE' in str(error):
            raise ValueError(
                f'port {os.environ["MASTER_PORT"]} is in use; set PORT to '
                'another one.'
            ) from error
        raise


def leave_ranks() -> None:
    """Destroy the process group; without this gloo sometimes aborts."""
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        destroy_ranks()


def destroy_ranks() -> None:
    """Destroy the process group without waiting for the other ranks."""
    backend = _gloo_backend(torch.distributed.group.WORLD)
    torch.distributed.destroy_process_group()
    del backend


def _gloo_backend(group: Any) -> Any:
    """The part of a group that has gloo's threads; None of other groups.

    Whoever destroys a group has to keep it until the group is gone. Otherwise
    torch 2.6 waits for the threads while it holds the interpreter's lock, for
    which such a thread may wait, to free a tensor: a rank hangs.
    This part releases the lock while it waits.
    """
    if torch.distributed.get_backend(group) != 'gloo':
        return None
    return group._get_backend(torch.device('cpu'))


def on_main_rank(function: Callable[[], T]) -> T:
    """Call a function on rank 0 only and return its result on all ranks.

    Args:
        function: Its result can be pickled.

    Raises:
        OtherRankError: On the other ranks, if it failed on rank 0. On rank 0
            the error itself is raised.
    """
    if get_world_size() == 1:
        return function()
    message: list = [None, None]  # result and error
    failure: BaseException | None = None
    if is_main_process():
        try:
            message[0] = function()
        except Exception as error:
            failure, message[1] = error, describe(error)
    broadcast_object_list(message)
    if failure is not None:
        raise failure
    if message[1] is not None:
        raise OtherRankError(f'rank 0: {message[1]}')
    return message[0]


def unwrapped_model(runner: Runner) -> Any:
    """Return the model itself, also if it is wrapped for several ranks."""
    model: Any = runner.model
    return model.module if is_model_wrapper(model) else model


class StopVote:
    """Lets all ranks stop after the same step when one receives a signal.

    The largest signal number of all ranks is exchanged over gloo on the CPU.
    The exchange of a step runs while the next step is computed, so that no
    rank waits for it; ranks therefore stop one step after the signal.
    """

    def __init__(self) -> None:
        self._group: Any = None
        self._pending: tuple | None = None
        if get_world_size() > 1:
            self._group = torch.distributed.new_group(backend='gloo')

    def agreed(self, signum: int | None) -> int | None:
        """Return the signal that all ranks stop for after this step, if any.

        Every rank calls this once after each step.

        Args:
            signum: The signal that this rank has received.
        """
        if self._group is None:
            return signum
        result = 0
        if self._pending is not None:
            work, vote = self._pending
            work.wait()
            result = int(vote)
        vote = torch.tensor(signum or 0)
        work = torch.distributed.all_reduce(
            vote,
            torch.distributed.ReduceOp.MAX,
            group=self._group,
            async_op=True,
        )
        self._pending = (work, vote)
        return result or None

    def close(self) -> None:
        """Wait for the pending exchange and leave the group."""
        if self._pending is not None:
            self._pending[0].wait()
            self._pending = None
        if self._group is not None:
            backend = _gloo_backend(self._group)
            torch.distributed.destroy_process_group(self._group)
            self._group = None
            del backend
