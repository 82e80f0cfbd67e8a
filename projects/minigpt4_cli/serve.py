# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""``minigpt4 serve``: the HTTP API, and a web page with ``--web``."""

import argparse
import os

from .options import (
    add_model_options,
    positive_float,
    positive_int,
)

KEY_VARIABLE = 'MINIGPT4_API_KEY'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the verb."""
    parser.description = "Serve OpenAI's chat API over HTTP."
    parser.formatter_class = argparse.ArgumentDefaultsHelpFormatter
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
    group = parser.add_argument_group('engine')
    add = group.add_argument
    add(
        '--slots',
        type=positive_int,
        default=16,
        help='answers written at once',
    )
    add('--max-waiting', type=positive_int, default=64, help='then 429')
    add(
        '--stored-tokens',
        type=int,
        default=8192,
        help='of ended answers, for follow-up questions',
    )
    add(
        '--drain-seconds',
        type=positive_float,
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
    add('--max-image-mb', type=positive_float, default=20, help='of one file')
    add(
        '--max-megapixels',
        type=positive_float,
        default=25,
        help='of one image',
    )
    add(
        '--fetch-seconds',
        type=positive_float,
        default=10,
        help='for one image',
    )
    group = parser.add_argument_group('limits of a request')
    add = group.add_argument
    add('--max-images', type=int, default=8, help='of one conversation')
    add('--max-tokens', type=positive_int, default=2048, help='of an answer')
    add(
        '--max-beams',
        type=positive_int,
        default=1,
        help='others wait for them',
    )
    add('--max-body-mb', type=positive_float, default=64, help='of the JSON')
    add('--max-seconds', type=positive_float, default=600, help='in all')
    add(
        '--max-client-requests',
        type=int,
        default=0,
        help='of one client that run or wait; 0: no limit',
    )
    group = parser.add_argument_group('limits of connections')
    add = group.add_argument
    add(
        '--max-connections',
        type=positive_int,
        default=512,
        help='in all; fewer if the limit of open files is low',
    )
    add(
        '--max-client-connections',
        type=positive_int,
        default=128,
        help='of one IP address, or of one /64 of IPv6',
    )
    add(
        '--header-seconds',
        type=positive_float,
        default=20.0,
        help='without a complete request, until a connection is closed',
    )
    add(
        '--idle-seconds',
        type=positive_float,
        default=65.0,
        help='after an answer, until a connection is closed',
    )
    add(
        '--body-seconds',
        type=positive_float,
        default=60.0,
        help='for the body of a request to arrive',
    )
    add(
        '--send-seconds',
        type=positive_float,
        default=30.0,
        help='in which a client reads nothing of its answer',
    )
    group = parser.add_argument_group('the web page')
    add = group.add_argument
    add(
        '--max-upload-mb',
        type=positive_float,
        default=1024,
        help='of all uploaded pictures on disk; a client may have a quarter',
    )


def run(args: argparse.Namespace) -> int:
    """Run the verb."""
    from minigpt4.serving.http.serve import serve

    return serve(args)


def _port(text: str) -> int:
    value = int(text)
    if not 0 <= value < 2**16:
        raise argparse.ArgumentTypeError(f'{text} is not from 0 to 65535')
    return value
