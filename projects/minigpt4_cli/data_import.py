# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""``minigpt4 data import``: any common data set for stage 1 or 2."""

import argparse

from .options import UsageError, path, positive_int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        'source',
        nargs='?',
        type=path,
        help='the file or folder; its format is recognised',
    )
    parser.add_argument(
        '-o', '--out', type=path, metavar='DIR', help='the folder to write'
    )
    parser.add_argument(
        '--formats', action='store_true', help='list the formats and end'
    )
    parser.add_argument(
        '--format', metavar='NAME', help='the format, if it is not recognised'
    )
    parser.add_argument(
        '--to',
        choices=('stage1', 'stage2'),
        default='stage2',
        help='tar shards of captions, or a JSON file (default: %(default)s)',
    )
    _add_source_options(parser)
    _add_output_options(parser)
    parser.add_argument(
        '--strict',
        action='store_true',
        help='exit status 1 if a record is skipped',
    )
    parser.add_argument(
        '--show',
        type=int,
        default=20,
        metavar='N',
        help='print the first N skipped records (default: %(default)s)',
    )
    parser.add_argument(
        '-q', '--quiet', action='store_true', help='no progress, no summary'
    )


def _add_source_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group('source')
    group.add_argument(
        '--images',
        type=path,
        metavar='DIR',
        help='the folder of the images (default: that of the source, and '
        'images, image, train2017 ... in it)',
    )
    group.add_argument(
        '--image-column', metavar='NAME', help='the column of the images'
    )
    group.add_argument(
        '--text-column', metavar='NAME', help='the column of the captions'
    )
    group.add_argument(
        '--questions',
        type=path,
        metavar='FILE',
        help='the questions of VQA annotations (default: next to them)',
    )
    group.add_argument(
        '--objects',
        type=path,
        metavar='FILE',
        help="COCO's instances_*.json: add the object classes of each image "
        'to the captions as "objects"',
    )
    group.add_argument(
        '--whole-files',
        action='store_true',
        help='a text file next to an image is one text (default: one text '
        'in each line)',
    )
    group.add_argument(
        '--fetch',
        action='store_true',
        help='fetch images from their URLs (public hosts only)',
    )
    group.add_argument(
        '--fetch-from',
        action='append',
        metavar='HOST',
        help='fetch from this host only, which may be private; may be given '
        'several times',
    )


def _add_output_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group('output')
    group.add_argument(
        '--split',
        metavar='SHARES',
        help='divide by image into train and test, or train, val and test: '
        '0.9,0.05,0.05',
    )
    group.add_argument(
        '--seed', type=int, default=0, help='of splits and of shards'
    )
    group.add_argument(
        '--limit',
        type=positive_int,
        metavar='N',
        help='import the first N valid records',
    )
    group.add_argument(
        '--dedup',
        nargs='?',
        type=int,
        const=-1,
        metavar='DISTANCE',
        help='drop images that are near duplicates of an earlier one: at '
        'most DISTANCE of 64 bits of a perceptual hash differ (default: 4)',
    )
    group.add_argument(
        '--name',
        default='filter_cap',
        help='of the JSON file; with --split of that of train (default: '
        '%(default)s, which the configs of stage 2 read)',
    )
    group.add_argument(
        '--copy',
        action='store_true',
        help='copy images into DIR/image and name them relative to it '
        '(default: absolute names)',
    )
    group.add_argument(
        '--shard-size',
        type=positive_int,
        default=1000,
        metavar='N',
        help='samples of a shard (default: %(default)s)',
    )
    group.add_argument(
        '--overwrite', action='store_true', help='replace an earlier import'
    )


def run(args: argparse.Namespace) -> int:
    """Run the action."""
    from minigpt4.data_tools.image_splits import parse_shares
    from minigpt4.data_tools.import_duplicates import DEFAULT_DISTANCE
    from minigpt4.data_tools.import_run import list_formats, run_import
    from minigpt4.data_tools.near_duplicates import MAX_DISTANCE

    if args.formats:
        print(list_formats())
        return 0
    if args.source is None or args.out is None:
        raise UsageError('give SOURCE and -o DIR, or --formats')
    if args.dedup is not None:
        if args.dedup == -1:
            args.dedup = DEFAULT_DISTANCE
        if not 0 <= args.dedup <= MAX_DISTANCE:
            raise UsageError(
                f'--dedup {args.dedup} is not a distance from 0 to '
                f'{MAX_DISTANCE}'
            )
    if args.split is not None:
        try:
            args.split = parse_shares(args.split)
        except ValueError as error:
            raise UsageError(str(error)) from error
    args.name = args.name.removesuffix('.json')
    if not args.name or '/' in args.name:
        raise UsageError(f'--name {args.name!r} is not the name of a file')
    args.fetch = args.fetch or bool(args.fetch_from)
    return run_import(args)
