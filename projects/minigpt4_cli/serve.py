# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""``minigpt4 serve``: the HTTP API, and a web page with ``--web``."""

import argparse
import importlib
import os
from collections.abc import Callable
from typing import Any, NamedTuple

from .options import (
    add_model_options,
    positive_float,
    positive_int,
)

KEY_VARIABLE = 'MINIGPT4_API_KEY'


class NumberOption(NamedTuple):
    """An option with a number."""

    flag: str
    type: Callable[[str], Any]
    default: float
    help: str


NUMBER_OPTIONS: dict[str, list[NumberOption]] = {
    'engine': [
        NumberOption(
            '--slots', positive_int, 16, 'requests that run at the same time'
        ),
        NumberOption(
            '--max-waiting',
            positive_int,
            64,
            'requests that wait; the next one gets status 429',
        ),
        NumberOption(
            '--stored-tokens',
            int,
            8192,
            'tokens of finished answers in the prefix cache',
        ),
        NumberOption(
            '--drain-seconds',
            positive_float,
            30.0,
            'to finish running answers when the server stops',
        ),
    ],
    'images': [
        NumberOption(
            '--max-image-mb', positive_float, 20.0, 'of one image file'
        ),
        NumberOption('--max-megapixels', positive_float, 25.0, 'of one image'),
        NumberOption(
            '--fetch-seconds', positive_float, 10.0, 'to download one image'
        ),
    ],
    'limits of a request': [
        NumberOption('--max-images', int, 8, 'of one conversation'),
        NumberOption('--max-tokens', positive_int, 2048, 'of an answer'),
        NumberOption(
            '--max-context',
            positive_int,
            4096,
            'tokens of a conversation; less where the LLM takes less',
        ),
        NumberOption(
            '--max-choices',
            positive_int,
            8,
            'answers of a request (n); each counts as a request',
        ),
        NumberOption(
            '--max-beams',
            positive_int,
            1,
            'of an answer; other requests wait during a beam search',
        ),
        NumberOption('--max-body-mb', positive_float, 64.0, 'of the JSON'),
        NumberOption(
            '--max-seconds', positive_float, 600.0, 'waiting included'
        ),
        NumberOption(
            '--max-client-requests',
            int,
            0,
            'of one client that run or wait; 0: no limit',
        ),
    ],
    'limits of connections': [
        NumberOption(
            '--max-connections',
            positive_int,
            512,
            'of all clients; fewer if the limit of open files is low',
        ),
        NumberOption(
            '--max-client-connections',
            positive_int,
            128,
            'of one IPv4 address, or of one /64 of IPv6',
        ),
        NumberOption(
            '--header-seconds',
            positive_float,
            20.0,
            'for the headers of a request to arrive',
        ),
        NumberOption(
            '--idle-seconds',
            positive_float,
            65.0,
            'from an answer to the next request of a connection',
        ),
        NumberOption(
            '--body-seconds',
            positive_float,
            60.0,
            'for the body of a request to arrive',
        ),
        NumberOption(
            '--send-seconds',
            positive_float,
            30.0,
            'in which a client may read nothing of its answer',
        ),
    ],
    'web page': [
        NumberOption(
            '--max-upload-mb',
            positive_float,
            1024.0,
            'of all uploaded images on disk; a client may use a quarter',
        ),
    ],
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the verb."""
    parser.description = "Serve OpenAI's chat API over HTTP."
    parser.formatter_class = argparse.ArgumentDefaultsHelpFormatter
    add_model_options(parser)
    add = parser.add_argument
    add(
        '--host',
        default='127.0.0.1',
        help='0.0.0.0 accepts other machines',
    )
    add('--port', type=_port, default=8000, help='0: any free port')
    add('--web', action='store_true', help='also serve a chat page')
    add(
        '--api-key',
        default=os.environ.get(KEY_VARIABLE),
        help=f'require this key; the variable {KEY_VARIABLE} keeps it out of '
        'the list of processes',
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
        help='a proxy whose X-Forwarded-For is trusted: an IP address or a '
        'network; may be given several times',
    )
    add('--quiet', action='store_true', help='log only warnings')
    for title, options in NUMBER_OPTIONS.items():
        group = parser.add_argument_group(title)
        if title == 'images':
            _add_image_options(group)
        for option in options:
            group.add_argument(
                option.flag,
                type=option.type,
                default=option.default,
                help=option.help,
            )


def run(args: argparse.Namespace) -> int:
    """Run the verb.

    Raises:
        ImportError: A package of an extra is not installed.
    """
    _check_extras(args.web)
    from minigpt4.serving.http.serve import serve

    return serve(args)


def _add_image_options(group: Any) -> None:
    """Add the options for the URLs of images."""
    group.add_argument(
        '--images-from',
        metavar='FOLDER',
        help='allow file: URLs of images below this folder',
    )
    group.add_argument(
        '--image-hosts',
        nargs='*',
        metavar='HOST',
        help='download images from these hosts only, private ones too; '
        'without a HOST: from none; without the option: from any public host',
    )


def _check_extras(web: bool) -> None:
    """Check that the packages of the server are installed.

    Raises:
        ImportError: A package is missing; the message names the command.
    """
    extras = dict.fromkeys(
        ('fastapi', 'httpcore', 'prometheus_client', 'uvicorn'), 'serve'
    )
    if web:
        extras['gradio'] = 'web'
    for package, extra in extras.items():
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise ImportError(
                f'{package} cannot be imported ({error}); install it with: '
                f"pip install 'minigpt4[{extra}]'"
            ) from error


def _port(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = -1
    if not 0 <= value < 2**16:
        raise argparse.ArgumentTypeError(f'{text} is not from 0 to 65535')
    return value
