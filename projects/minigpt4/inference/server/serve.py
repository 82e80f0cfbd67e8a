# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""``minigpt4 serve``: the HTTP API, and with ``--web`` a page to chat on."""

import argparse
import contextlib
import importlib
import ipaddress
import os
import signal
import socket
from collections.abc import Sequence
from pathlib import Path

from ...errors import add_debug_option, one_line, printable, reports_errors
from ...models import MiniGPT4
from ...models.engine import Engine
from ...signals import raise_on_signals
from ..options import add_model_options, check_model, load_model, quiet_logs
from ..worker import EngineWorker
from .api import ChatApi
from .connections import ConnectionLimits
from .hosts import HostRules, is_loopback, own_names
from .http_server import install_hangup, make_server
from .image_sources import ImageLimits, ImageSources
from .request_values import RequestLimits

KEY_VARIABLE = 'MINIGPT4_API_KEY'
_BACKLOG = 128  # connections that wait while the model is loaded
_CHARACTERS = 16  # of a token, at most, nearly always


@reports_errors
def main(argv: Sequence[str]) -> int:
    """Run the verb.

    Args:
        argv: What follows ``minigpt4 serve``.

    Returns:
        0 once a signal stopped it and all answers were finished; 128 + N
        where signal N cut answers off or came before it was ready; 1 if it
        could not start.
    """
    args = _parser().parse_args(argv)
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
    args.api_key = _checked_key(args.api_key)
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


def _checked_key(key: str | None) -> str | None:
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
    """Refuse what is no address and no network.

    Raises:
        ValueError: With the text.
    """
    for text in proxies:
        try:
            ipaddress.ip_network(text)
        except ValueError as error:
            raise ValueError(
                f'--proxy {text} is no IP address and no network '
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='minigpt4 serve',
        description='Answer OpenAI clients over HTTP.',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add_model_options(parser)
    add = parser.add_argument
    add('--host', default='127.0.0.1', help='0.0.0.0 lets other machines in')
    add('--port', type=_port, default=8000, help='0 takes a free one')
    add('--web', action='store_true', help='also serve a page to chat on')
    add(
        '--api-key',
        default=os.environ.get(KEY_VARIABLE),
        help=f'ask clients for this key (or {KEY_VARIABLE}, which no list of '
        'processes shows)',
    )
    add('--served-name', help="the model's name for clients")
    add(
        '--allowed-host',
        action='append',
        default=[],
        metavar='NAME',
        help='a further host name of this server, e.g. that of a proxy; '
        'may be given several times',
    )
    add(
        '--allowed-origin',
        action='append',
        default=[],
        metavar='ORIGIN',
        help='a web page that may call the API from a browser, e.g. '
        'https://chat.example.com; may be given several times',
    )
    add(
        '--proxy',
        action='append',
        default=[],
        metavar='ADDRESS',
        help='a proxy whose X-Forwarded-For is believed: an IP address or a '
        'network; may be given several times',
    )
    add('--quiet', action='store_true', help='log warnings alone')
    add_debug_option(parser)
    group = parser.add_argument_group('engine')
    add = group.add_argument
    add('--slots', type=_above_0, default=16, help='answers written at once')
    add('--max-waiting', type=_above_0, default=64, help='then 429')
    add(
        '--stored-tokens',
        type=int,
        default=8192,
        help='of ended answers, for follow-up questions',
    )
    add(
        '--drain-seconds',
        type=_positive,
        default=30,
        help='to finish at a stop',
    )
    group = parser.add_argument_group('images')
    add = group.add_argument
    add('--images-from', metavar='FOLDER', help='allow file: URLs below it')
    add(
        '--image-hosts',
        nargs='*',
        metavar='HOST',
        help='fetch from these alone, private ones too; none: fetch nothing; '
        'without the option: from any public address',
    )
    add('--max-image-mb', type=_positive, default=20, help='of one file')
    add('--max-megapixels', type=_positive, default=25, help='of one image')
    add('--fetch-seconds', type=_positive, default=10, help='for one image')
    group = parser.add_argument_group('limits of a request')
    add = group.add_argument
    add('--max-images', type=int, default=8, help='of one conversation')
    add('--max-tokens', type=_above_0, default=2048, help='of an answer')
    add('--max-beams', type=_above_0, default=1, help='others wait for them')
    add('--max-body-mb', type=_positive, default=64, help='of the JSON')
    add('--max-seconds', type=_positive, default=600, help='in all')
    add(
        '--max-client-requests',
        type=int,
        default=0,
        help='of one client that run or wait; 0: no limit',
    )
    group = parser.add_argument_group('limits of connections')
    add = group.add_argument
    defaults = ConnectionLimits()
    add(
        '--max-connections',
        type=_above_0,
        default=defaults.total,
        help='in all; fewer if the limit of open files is low',
    )
    add(
        '--max-client-connections',
        type=_above_0,
        default=defaults.per_client,
        help='of one IP address, or of one /64 of IPv6',
    )
    add(
        '--header-seconds',
        type=_positive,
        default=defaults.header_seconds,
        help='without a complete request, until a connection is closed',
    )
    add(
        '--idle-seconds',
        type=_positive,
        default=defaults.idle_seconds,
        help='after an answer, until a connection is closed',
    )
    add(
        '--body-seconds',
        type=_positive,
        default=defaults.body_seconds,
        help='for the body of a request to arrive',
    )
    add(
        '--send-seconds',
        type=_positive,
        default=defaults.send_seconds,
        help='in which a client reads nothing of its answer',
    )
    group = parser.add_argument_group('the web page')
    add = group.add_argument
    add(
        '--max-upload-mb',
        type=_positive,
        default=1024,
        help='of all uploaded pictures on disk; a client may have a quarter',
    )
    return parser


def _port(text: str) -> int:
    value = int(text)
    if not 0 <= value < 2**16:
        raise argparse.ArgumentTypeError(f'{text} is not from 0 to 65535')
    return value


def _above_0(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f'{text} is not above 0')
    return value


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float('inf'):
        raise argparse.ArgumentTypeError(f'{text} is no number above 0')
    return value


def _not_negative(text: str) -> float:
    value = float(text)
    if not 0 <= value < float('inf'):
        raise argparse.ArgumentTypeError(f'{text} is no number from 0')
    return value
