# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""``minigpt4 chat``: chat about images, typed or from a script."""

import argparse

from .options import (
    UsageError,
    add_model_options,
    add_settings,
    check_model_options,
    path,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the verb."""
    parser.description = (
        'Chat about images. With --ask, or when standard input is not a '
        'terminal (one question or command per line), only the answers are '
        'printed.'
    )
    add_model_options(parser)
    parser.add_argument(
        '--image',
        action='append',
        default=[],
        metavar='PATH',
        help='an image, by path or URL, for the first question; may '
        'be given several times',
    )
    parser.add_argument(
        '--ask',
        action='append',
        metavar='TEXT',
        help='a question; several are turns of one conversation',
    )
    parser.add_argument(
        '--json',
        action='store_true',
        help='print each answer as a line of JSON, with its counts',
    )
    parser.add_argument(
        '--plain',
        action='store_true',
        help='show answers as plain text, not as Markdown',
    )
    parser.add_argument(
        '--system',
        metavar='TEXT',
        help="the line that opens the chat, instead of the model's own; '' "
        'for none',
    )
    parser.add_argument(
        '--max-context',
        type=int,
        metavar='N',
        help='tokens of prompt and answer together (default: the '
        'context length of the LLM)',
    )
    for flag, help_ in (
        ('--load', 'continue a saved conversation'),
        ('--save', 'write the conversation at the end'),
    ):
        parser.add_argument(
            flag,
            type=path,
            metavar='FILE',
            help=help_,
        )
    add_settings(parser)


def run(args: argparse.Namespace) -> int:
    """Run the verb."""
    from minigpt4.terminal.run import chat

    if args.max_context is not None and args.max_context < 1:
        raise UsageError(
            f'--max-context is {args.max_context}; expected above 0'
        )
    check_model_options(args)
    return chat(args)
