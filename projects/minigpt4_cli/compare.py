# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""``minigpt4 compare``: why do two results of ``minigpt4 eval`` differ?"""

import argparse

from .options import UsageError, path, positive_int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.description = (
        'Compare two result folders of one protocol: the settings that '
        'differ, each score with the interval and the test of its '
        'difference, and the samples that differ.'
    )
    parser.add_argument(
        'folders',
        nargs=2,
        type=path,
        metavar='DIR',
        help='the -o of "minigpt4 eval"',
    )
    parser.add_argument(
        '-o',
        '--out',
        type=path,
        metavar='FILE.html',
        help='write a page of the samples that differ, side by side',
    )
    parser.add_argument(
        '--images',
        type=path,
        metavar='DIR',
        help='with -o: display the images of this folder and its subfolders',
    )
    parser.add_argument(
        '--json',
        type=path,
        metavar='FILE',
        help='write the comparison as JSON, with the id of each sample that '
        'differs',
    )
    parser.add_argument(
        '--resamples',
        type=positive_int,
        default=10_000,
        metavar='N',
        help='resamples of the intervals and of the tests '
        '(default: %(default)s)',
    )
    parser.add_argument(
        '-q', '--quiet', action='store_true', help='without progress bar'
    )


def run(args: argparse.Namespace) -> int:
    """Run the verb."""
    from minigpt4.evaluation.compare_run import run_compare

    if args.images is not None and args.out is None:
        raise UsageError('--images goes with -o FILE.html')
    return run_compare(args)
