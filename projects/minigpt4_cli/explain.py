# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""``minigpt4 explain``: show what an answer rests on, as an HTML page."""

import argparse
from pathlib import Path

from .options import UsageError, add_model_options, path, positive_int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the verb."""
    parser.description = (
        'Answer a question about one image, and write a page that shows '
        'which parts of the image and which image tokens each word of the '
        'answer attends to and depends on. The answer is greedy.'
    )
    parser.add_argument(
        'images', nargs='+', type=path, metavar='IMAGE', help='the image'
    )
    parser.add_argument(
        '-o',
        '--out',
        required=True,
        type=path,
        metavar='FILE.html',
        help='the page, which needs no network',
    )
    parser.add_argument(
        '--json',
        nargs='?',
        const='',
        metavar='FILE.json',
        help='write the numbers as JSON too (default: next to the page)',
    )
    parser.add_argument(
        '--prompt',
        metavar='TEXT',
        help="what to ask (default: the model's own prompt)",
    )
    add_model_options(parser)
    parser.add_argument(
        '--max-new-tokens',
        type=positive_int,
        metavar='N',
        help="the longest answer, in tokens (default: the model's setting)",
    )
    parser.add_argument(
        '--batch-size',
        type=positive_int,
        default=16,
        metavar='N',
        help='sequences of one forward pass (default: %(default)s)',
    )
    parser.add_argument(
        '-q', '--quiet', action='store_true', help='print errors only'
    )


def run(args: argparse.Namespace) -> int:
    """Run the verb."""
    from minigpt4.explain.run import run_explain
    from minigpt4.loading import check_model
    from minigpt4.utils.errors import one_line, printable

    if len(args.images) > 1:
        raise UsageError(
            f'{len(args.images)} images were given; expected one, run the '
            'command once for each'
        )
    args.image = args.images[0]
    if args.prompt is not None and not args.prompt.strip():
        raise UsageError(
            "--prompt is empty; give a question, or omit it for the model's "
            'own prompt'
        )
    if args.out.suffix not in ('.html', '.htm'):
        raise UsageError(
            f'-o {printable(str(args.out))} is no name of a page; expected '
            'the suffix .html'
        )
    if args.json is not None:
        args.json = Path(args.json or args.out.with_suffix('.json'))
        args.json = args.json.expanduser()
        if args.json == args.out:
            raise UsageError('--json and -o name the same file')
    try:
        check_model(args.model, args.pretrained)
    except (OSError, ValueError) as error:
        raise UsageError(one_line(error)) from error
    return run_explain(args)
