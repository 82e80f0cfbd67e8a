# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Load a model and serve it: the HTTP API, and optionally a chat page."""

import argparse
import contextlib
import ipaddress
import signal
import socket
from collections.abc import Sequence
from pathlib import Path

from ...generation.engine import Engine
from ...generation.worker import EngineWorker
from ...images.request_images import ImageLimits, ImageSources
from ...loading import check_model, load_model, quiet_logs
from ...models import MiniGPT4
from ...utils.errors import printable
from ...utils.signals import raise_on_signals
from .api import ChatApi
from .connections import ConnectionLimits
from .hosts import HostRules, is_loopback, own_names
from .http_server import OrderlyServer, install_hangup, make_server
from .logs import escape_other_logs
from .request_limits import RequestLimits

KEY_VARIABLE = 'MINIGPT4_API_KEY'
_BACKLOG = 128  # connections that wait while the model is loaded
_CHARACTERS_PER_TOKEN = 16  # hardly any token is longer


def serve(args: argparse.Namespace) -> int:
    """Serve until a signal stops the server.

    Args:
        args: The options of :mod:`minigpt4_cli.serve`.

    Returns:
        0 if a signal stopped it and all answers were finished; 128 + N if
        answers were cut off after signal N, or N arrived during start-up.

    Raises:
        ValueError: An option is invalid.
        OSError: The address cannot be used, or a folder does not exist.
    """
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
    args.api_key = clean_key(args.api_key)
    with raise_on_signals():
        with contextlib.closing(bind(args.host, args.port)) as listener:
            print(f'loading {args.model} ...', flush=True)
            with quiet_logs():
                model = load_model(args.model, args.pretrained, args.device)
            return _serve_model(args, model, sources, hosts, listener)


def _serve_model(
    args: argparse.Namespace,
    model: MiniGPT4,
    sources: ImageSources,
    hosts: HostRules,
    listener: socket.socket,
) -> int:
    """Serve a loaded model; returns the exit status."""
    engine = Engine(model, args.slots, args.stored_tokens)
    worker = EngineWorker(engine, args.max_waiting)
    model.max_context = args.max_context
    context = model.context_length or args.max_context
    limits = RequestLimits(
        body=int(args.max_body_mb * 2**20),
        images=args.max_images,
        max_tokens=min(args.max_tokens, context),
        choices=args.max_choices,
        beams=args.max_beams,
        text=_CHARACTERS_PER_TOKEN * context,
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
    server.greeting = greeting(
        name, listener, web=args.web, has_key=bool(args.api_key)
    )
    install_hangup(server)
    try:
        server.run(sockets=[listener])
    finally:
        worker.close(drain=False)
    return _report_stop(server)


def _report_stop(server: OrderlyServer) -> int:
    """Print why the server stopped; returns the exit status."""
    if server.signum is None:
        return 0
    signal_name = signal.Signals(server.signum).name
    if server.cut:
        print(f'stopped by {signal_name}; {server.cut} answers were cut off.')
        return 128 + server.signum
    print(f'stopped by {signal_name}; all answers were finished.')
    return 0


def greeting(
    name: str, listener: socket.socket, *, web: bool, has_key: bool
) -> str:
    """The text that is printed when the server accepts requests.

    Args:
        name: The model's name for clients.
        listener: The socket of the server.
        web: Whether the chat page is served too.
        has_key: Whether clients have to send an API key.
    """
    host, port = listener.getsockname()[:2]
    url = f'http://{f"[{host}]" if ":" in host else host}:{port}'
    lines = [f'{printable(name)} answers OpenAI clients at {url}/v1']
    if web:
        lines.append(f'chat page: {url}/')
    if not has_key and not is_loopback(host):
        lines.append(
            'warning: every machine that can connect may send requests; set '
            f'{KEY_VARIABLE} or give --api-key.'
        )
    return '\n'.join([*lines, 'Ctrl+C stops it.'])


def clean_key(key: str | None) -> str | None:
    """Remove white space around the API key, such as a line end of its file.

    Raises:
        ValueError: The key is empty.
    """
    if key is None:
        return None
    if not key.strip():
        raise ValueError(
            f'the API key is empty; set {KEY_VARIABLE} or --api-key to a '
            'key, or omit both.'
        )
    return key.strip()


def _check_proxies(proxies: Sequence[str]) -> None:
    """Check that proxies are IP addresses or networks.

    Raises:
        ValueError: One of them is not.
    """
    for text in proxies:
        try:
            ipaddress.ip_network(text)
        except ValueError as error:
            raise ValueError(
                f'--proxy {text} is neither an IP address nor a network '
                f'({error}); expected e.g. 127.0.0.1 or 10.0.0.0/8.'
            ) from error


def bind(host: str, port: int) -> socket.socket:
    """Listen at an address before a model is loaded, which takes minutes.

    Connections are accepted when the model is loaded.

    Raises:
        OSError: The address is in use, or is not one of this machine.
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
                # two servers can bind one address, but not listen at it
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
