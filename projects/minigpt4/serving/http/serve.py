# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""``minigpt4 serve``: the HTTP API, and with ``--web`` a page to chat on."""

import argparse
import contextlib
import importlib
import ipaddress
import signal
import socket
from collections.abc import Sequence
from pathlib import Path

from ...generation.engine import Engine
from ...generation.worker import EngineWorker
from ...images.sources import ImageLimits, ImageSources
from ...loading import check_model, load_model, quiet_logs
from ...models import MiniGPT4
from ...utils.errors import one_line, printable
from ...utils.signals import raise_on_signals
from .api import ChatApi
from .connections import ConnectionLimits
from .hosts import HostRules, is_loopback, own_names
from .http_server import install_hangup, make_server
from .request_values import RequestLimits

KEY_VARIABLE = 'MINIGPT4_API_KEY'
_BACKLOG = 128  # connections that wait while the model is loaded
_CHARACTERS = 16  # of a token, at most, nearly always


def serve(args: argparse.Namespace) -> int:
    """Serve until a signal stops the server.

    Args:
        args: The options of :mod:`minigpt4_cli.serve`.

    Returns:
        0 once a signal stopped it and all answers were finished; 128 + N
        where signal N cut answers off or came before it was ready; 1 if it
        could not start.
    """
    _require(args.web)
    check_model(args.model, args.pretrained)
    sources = ImageSources(
        ImageLimits(
            int(args.max_image_mb * 2**20),
            int(args.max_megapixels * 1e6),
            args.fetch_seconds,
        ),
        args.images_from,
        args.image_hosts,
    )
    hosts = HostRules(
        [*own_names(args.host), *args.allowed_host], args.allowed_origin
    )
    _check_proxies(args.proxy)
    args.api_key = checked_key(args.api_key)
    with raise_on_signals():
        with contextlib.closing(_bind(args.host, args.port)) as listener:
            print(f'loading {args.model} ...', flush=True)
            with quiet_logs():
                model = load_model(args.model, args.pretrained, args.device)
            return _serve(args, model, sources, hosts, listener)


def _serve(
    args: argparse.Namespace,
    model: MiniGPT4,
    sources: ImageSources,
    hosts: HostRules,
    listener: socket.socket,
) -> int:
    """Run until a signal stops it; returns the exit status."""
    from .logs import escape_other_logs

    engine = Engine(model, args.slots, args.stored_tokens)
    worker = EngineWorker(engine, args.max_waiting)
    config = model.decoder.llm.config
    context = getattr(config, 'max_position_embeddings', None) or 2048
    limits = RequestLimits(
        body=int(args.max_body_mb * 2**20),
        images=args.max_images,
        max_tokens=min(args.max_tokens, context),
        beams=args.max_beams,
        text=_CHARACTERS * context,
        seconds=args.max_seconds,
        client_requests=args.max_client_requests,
    )
    name = args.served_name or Path(args.model).stem
    api = ChatApi(
        worker, name, sources, limits, args.api_key, hosts, args.body_seconds
    )
    if args.web:
        from ..web.page import mount_page

        mount_page(
            api.app,
            worker,
            model,
            name,
            args.api_key,
            sources=sources,
            limits=limits,
            upload_bytes=int(args.max_upload_mb * 2**20),
        )
    server = make_server(
        api,
        args.drain_seconds,
        ConnectionLimits(
            total=args.max_connections,
            per_client=args.max_client_connections,
            header_seconds=args.header_seconds,
            idle_seconds=args.idle_seconds,
            body_seconds=args.body_seconds,
            send_seconds=args.send_seconds,
        ),
        args.proxy,
        log_level='warning' if args.quiet else 'info',
    )
    escape_other_logs()
    server.greeting = _greeting(args, name, listener)
    install_hangup(server)
    try:
        server.run(sockets=[listener])
    finally:
        worker.close(drain=False)
    return _ended(server)


def _ended(server) -> int:
    """Report how it ended; returns the exit status."""
    if server.signum is None:
        return 0
    signal_name = signal.Signals(server.signum).name
    if server.cut:
        print(f'stopped by {signal_name}; {server.cut} answers were cut off.')
        return 128 + server.signum
    print(f'stopped by {signal_name}; all answers were finished.')
    return 0


def _greeting(
    args: argparse.Namespace, name: str, listener: socket.socket
) -> str:
    """What is printed once it answers."""
    host, port = listener.getsockname()[:2]
    url = f'http://{f"[{host}]" if ":" in host else host}:{port}'
    name = printable(name)
    lines = [f'{name} answers OpenAI clients at {url}/v1']
    if args.web:
        lines.append(f'a page to chat on: {url}/')
    if not args.api_key and not is_loopback(host):
        lines.append(
            'warning: anybody who reaches this address may ask; set '
            f'{KEY_VARIABLE} or give --api-key.'
        )
    return '\n'.join([*lines, 'Ctrl+C stops it.'])


def _require(web: bool) -> None:
    """Import what a server needs.

    Raises:
        ImportError: A package is not installed; it names the command.
    """
    extras = {'fastapi': 'serve', 'uvicorn': 'serve'}
    if web:
        extras['gradio'] = 'web'
    for package, extra in extras.items():
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise ImportError(
                f'{package} cannot be imported ({one_line(error)}); '
                f"install it with: pip install 'minigpt4[{extra}]'"
            ) from error


def checked_key(key: str | None) -> str | None:
    """The key without the blanks around it, e.g. the end of a file's line.

    Raises:
        ValueError: It is empty.
    """
    if key is None:
        return None
    if not key.strip():
        raise ValueError(
            f'the API key is empty; set {KEY_VARIABLE} or --api-key to a '
            'key, or leave both out.'
        )
    return key.strip()


def _check_proxies(proxies: Sequence[str]) -> None:
    """Refuse what is neither an address nor a network.

    Raises:
        ValueError: With the text.
    """
    for text in proxies:
        try:
            ipaddress.ip_network(text)
        except ValueError as error:
            raise ValueError(
                f'--proxy {text} is neither an IP address nor a network '
                f'({error}); expected e.g. 127.0.0.1 or 10.0.0.0/8.'
            ) from error


def _bind(host: str, port: int) -> socket.socket:
    """Take an address, before the minutes that a model takes to load.

    Connections are accepted when it is loaded.

    Raises:
        OSError: It is taken, or not of this machine.
    """
    error: OSError | None = None
    try:
        found = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        for family, kind, protocol, _, address in found[:1]:
            listener = socket.socket(family, kind, protocol)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind(address)
                # Two servers can bind one address, but not listen at it.
                listener.listen(_BACKLOG)
                return listener
            except OSError:
                listener.close()
                raise
    except OSError as reason:
        error = reason
    raise OSError(
        f'the address {host}, port {port} cannot be used '
        f'({error and error.strerror}); give another --port or --host.'
    )
