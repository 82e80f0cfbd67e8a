# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""``minigpt4 curate``: make descriptions for stage 2 from images."""

import argparse
import os
from collections.abc import Callable

from .curate_export import EXPORT_ACTIONS, EXPORT_OPTIONS, EXPORT_RUN
from .curate_options import add_common_options, add_settings_options
from .curate_review import REVIEW_ACTIONS, REVIEW_OPTIONS, REVIEW_RUN
from .options import (
    UsageError,
    add_ray_options,
    path,
    positive_float,
    positive_int,
)

# action: what it does; its options and its function are in _OPTIONS, _RUN
ACTIONS = {
    'add': 'add images to the ledger',
    'run': 'run the steps on all images that have no result yet',
    'status': 'count the results of each step',
    **REVIEW_ACTIONS,
    **EXPORT_ACTIONS,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the actions and their options."""
    parser.description = (
        'Make descriptions for stage 2 from images. Each action has its own '
        'options: minigpt4 curate ACTION --help.'
    )
    actions = parser.add_subparsers(
        dest='action', required=True, metavar='ACTION'
    )
    for name, help_ in ACTIONS.items():
        action = actions.add_parser(name, help=help_, description=help_)
        _OPTIONS[name](action)
        add_common_options(action)


def run(args: argparse.Namespace) -> int:
    """Run the verb."""
    return _RUN[args.action](args)


def _add_add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        'sources',
        nargs='+',
        metavar='IMAGES',
        help='folders, images, globs, lists (.txt .csv .tsv .jsonl), or - '
        'for a list on standard input',
    )
    parser.add_argument(
        '-r',
        '--recursive',
        action='store_true',
        help='search subfolders too',
    )
    parser.add_argument(
        '--source',
        metavar='TEXT',
        help='where the images come from, for the datasheet',
    )
    parser.add_argument(
        '--licence', metavar='TEXT', help='their licence, for the datasheet'
    )
    parser.add_argument(
        '--limit',
        type=positive_int,
        metavar='N',
        help='a random sample of N images (default: all; the paper: 5000)',
    )
    parser.add_argument(
        '--seed',
        type=int,
        default=0,
        metavar='INT',
        help='of the sample (default: %(default)s)',
    )
    parser.add_argument(
        '--captions',
        type=path,
        metavar='FILE',
        help='captions that people wrote, such as captions_*.json of COCO',
    )
    parser.add_argument(
        '--objects',
        type=path,
        metavar='FILE',
        help='the COCO classes in each image: {"139": ["chair", "tv"]}',
    )
    parser.add_argument(
        '--workers',
        type=positive_int,
        default=min(8, os.cpu_count() or 1),
        metavar='N',
        help='threads that read images (default: %(default)s)',
    )
    _add_quiet(parser)


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--steps',
        metavar='NAME,...',
        help='the steps to run (default: all)',
    )
    parser.add_argument(
        '--estimate',
        action='store_true',
        help='print what the repairs would need and cost, and end',
    )
    parser.add_argument(
        '--max-cost',
        type=positive_float,
        metavar='USD',
        help='repair.max_cost: stop before all repairs in the ledger cost '
        'more (needs repair.price_prompt and repair.price_completion)',
    )
    add_settings_options(parser)
    add_ray_options(parser)
    _add_quiet(parser)


def _add_quiet(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '-q', '--quiet', action='store_true', help='print errors only'
    )


def _run_add(args: argparse.Namespace) -> int:
    from minigpt4.curation.commands import add

    return add(args)


def _run_run(args: argparse.Namespace) -> int:
    if args.actors is not None and args.ray is None:
        raise UsageError('--actors goes with --ray')
    from minigpt4.curation.commands import run

    return run(args)


def _run_status(args: argparse.Namespace) -> int:
    from minigpt4.curation.commands import status

    return status(args)


_OPTIONS: dict[str, Callable[[argparse.ArgumentParser], None]] = {
    'add': _add_add_options,
    'run': _add_run_options,
    'status': add_settings_options,
    **REVIEW_OPTIONS,
    **EXPORT_OPTIONS,
}
_RUN: dict[str, Callable[[argparse.Namespace], int]] = {
    'add': _run_add,
    'run': _run_run,
    'status': _run_status,
    **REVIEW_RUN,
    **EXPORT_RUN,
}
