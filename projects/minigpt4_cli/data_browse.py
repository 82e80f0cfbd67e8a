# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The options of ``minigpt4 data browse``."""

import argparse

from .data_check import add_sources


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_sources(parser)
    parser.add_argument(
        '--port',
        type=int,
        default=8100,
        help='the port on 127.0.0.1; 0 takes a free one '
        '(default: %(default)s)',
    )


def run(args: argparse.Namespace) -> int:
    """Run the action."""
    from minigpt4.serving.browse.serve import browse_data

    return browse_data(args)
