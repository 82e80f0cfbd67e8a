# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""``minigpt4 serve``: the HTTP API, and with ``--web`` a page to chat on."""

import argparse
import contextlib
import importlib
import os
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from ...models import MiniGPT4
from ...models.engine import Engine
from ..options import (
    add_model_options,
    check_model,
    load_model,
    quiet_logs,
    sentence,
)
from ..worker import EngineWorker
from .api import ChatApi
from .image_sources import ImageLimits, ImageSources
from .request_values import RequestLimits

KEY_VARIABLE = 'MINIGPT4_API_KEY'
_CHARACTERS = 16  # of a token, at most, nearly always


def make_server(api: ChatApi, drain_seconds: float, **settings):
    """A uvicorn server that stops gracefully.

    At the first SIGINT or SIGTERM new requests get 503 and what runs is
    finished; at the second, or after a time, it is broken off.

    Args:
        api: What is served.
        drain_seconds: How long running answers may take to finish.
        settings: Further settings of ``uvicorn.Config``.
    """
    import uvicorn

    class Server(uvicorn.Server):
        """Stops accepting only once everything is answered."""

        deadline = float('inf')
        greeting = ''

        async def startup(self, sockets=None) -> None:
            await super().startup(sockets=sockets)
            print(self.greeting, flush=True)

        def handle_exit(self, sig, frame) -> None:
            if not api.draining:
                api.draining = True
                self.deadline = time.monotonic() + drain_seconds
            else:
                self.deadline = 0

        async def on_tick(self, counter: int) -> bool:
            late = time.monotonic() > self.deadline
            if late:
                api.completions.cancel_all()
            if api.draining and (late or api.idle):
                self.should_exit = True
            return await super().on_tick(counter)

    config = uvicorn.Config(
        api.app,
        http='h11',
        ws='none',
        lifespan='auto',  # the web page starts with it
        server_header=False,
        timeout_graceful_shutdown=5,
        **settings,
    )
    return Server(config)


def main(argv: Sequence[str]) -> int:
    """Run the verb.

    Args:
        argv: What follows ``minigpt4 serve``.

    Returns:
        0 once it was stopped; 1 if it could not start; 2 for arguments that
        cannot be.
    """
    parser = _parser()
    args = parser.parse_args(argv)
    missing = _missing(args.web)
    if missing:
        print(missing, file=sys.stderr)
        return 1
    try:
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
        listener = _bind(args.host, args.port)
    except (OSError, ValueError) as error:
        print(f'error: {sentence(error)}', file=sys.stderr)
        return 2
    with contextlib.closing(listener):
        print(f'loading {args.model} ...', flush=True)
        try:
            with quiet_logs():
                model = load_model(args.model, args.pretrained, args.device)
        except (OSError, ValueError) as error:
            print(f'error: {sentence(error)}', file=sys.stderr)
            return 1
        return _serve(args, model, sources, listener)


def _serve(
    args: argparse.Namespace,
    model: MiniGPT4,
    sources: ImageSources,
    listener: socket.socket,
) -> int:
    """Run until somebody stops it."""
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
    )
    name = args.served_name or Path(args.model).stem
    api = ChatApi(worker, name, sources, limits, args.api_key)
    if args.web:
        from ..web.page import mount_page

        mount_page(
            api.app,
            worker,
            model,
            name,
            args.api_key,
            sources=sources,
            max_new_tokens=limits.max_tokens,
            max_images=limits.images,
        )
    server = make_server(
        api,
        args.drain_seconds,
        log_level='warning' if args.quiet else 'info',
    )
    server.greeting = _greeting(args, name, listener)
    try:
        server.run(sockets=[listener])
    finally:
        worker.close(drain=False)
    return 0


def _greeting(
    args: argparse.Namespace, name: str, listener: socket.socket
) -> str:
    """What is said once it answers."""
    host, port = listener.getsockname()[:2]
    url = f'http://{f"[{host}]" if ":" in host else host}:{port}'
    lines = [f'{name} answers OpenAI clients at {url}/v1']
    if args.web:
        lines.append(f'a page to chat on: {url}/')
    if not args.api_key and not _is_loopback(host):
        lines.append(
            'warning: anybody who reaches this address may ask; set '
            f'{KEY_VARIABLE} or give --api-key.'
        )
    return '\n'.join([*lines, 'Ctrl+C stops it.'])


def _missing(web: bool) -> str | None:
    """What has to be installed, or None."""
    extras = {'fastapi': 'serve', 'uvicorn': 'serve'}
    if web:
        extras['gradio'] = 'web'
    for package, extra in extras.items():
        try:
            importlib.import_module(package)
        except ImportError as error:
            return (
                f'error: {package} cannot be imported ({sentence(error)}); '
                f"install it with: pip install 'minigpt4[{extra}]'"
            )
    return None


def _bind(host: str, port: int) -> socket.socket:
    """Take an address, before the minutes that a model takes to load.

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


def _is_loopback(host: str) -> bool:
    return host.startswith('127.') or host in ('::1', 'localhost')


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
        default=os.environ.get(KEY_VARIABLE) or None,
        help=f'ask clients for this key (or {KEY_VARIABLE}, which no list of '
        'processes shows)',
    )
    add('--served-name', help="the model's name for clients")
    add('--quiet', action='store_true', help='log warnings alone')
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
    add('--drain-seconds', type=float, default=30, help='to finish at a stop')
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
    add('--max-image-mb', type=float, default=20, help='of one file')
    add('--max-megapixels', type=float, default=25, help='of one image')
    add('--fetch-seconds', type=float, default=10, help='for one image')
    group = parser.add_argument_group('limits of a request')
    add = group.add_argument
    add('--max-images', type=int, default=8, help='of one conversation')
    add('--max-tokens', type=_above_0, default=2048, help='of an answer')
    add('--max-beams', type=_above_0, default=1, help='others wait for them')
    add('--max-body-mb', type=float, default=64, help='of the JSON')
    add('--max-seconds', type=float, default=600, help='in all')
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
