# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""``minigpt4 caption``: ask about a folder of images, into a table."""

import argparse
import os
from pathlib import Path

from .options import (
    DEFAULT_MODEL,
    UsageError,
    add_model_options,
    add_ray_options,
    add_server_options,
    add_settings,
    check_model_options,
    check_server_options,
    path,
    positive_int,
    used_ray,
)

SUFFIXES = ('.jsonl', '.csv', '.parquet')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the verb."""
    parser.description = (
        'Ask about many images, into a table. The same command '
        'again answers what is missing or has changed.'
    )
    parser.add_argument(
        'sources',
        nargs='+',
        metavar='IMAGES',
        help='folders, images, globs, lists (.txt .csv .tsv .jsonl), or - '
        'for a list on standard input',
    )
    parser.add_argument(
        '-o',
        '--out',
        required=True,
        type=path,
        metavar='FILE',
        help=f'the table: {", ".join(SUFFIXES)}',
    )
    parser.add_argument(
        '--prompt',
        action='append',
        metavar='TEXT',
        help="what to ask; several are asked one by one (default: the model's "
        'own, "Describe this image in detail.")',
    )
    parser.add_argument(
        '-r',
        '--recursive',
        action='store_true',
        help='search subfolders too',
    )
    parser.add_argument(
        '--gallery',
        nargs='?',
        const='',
        metavar='FILE.html',
        help='write an HTML page of images and answers (default: next to '
        'the table)',
    )
    parser.add_argument(
        '--references',
        type=path,
        metavar='FILE',
        help='captions of the images, such as captions_*.json of COCO; the '
        'gallery shows them below the answers',
    )
    parser.add_argument(
        '--overwrite',
        action='store_true',
        help='answer everything again; replaces the table',
    )
    parser.add_argument(
        '-q',
        '--quiet',
        action='store_true',
        help='print no progress and no summary',
    )
    add_model_options(parser)
    parser.set_defaults(model=None)  # with --server: the first one there
    parser.add_argument(
        '--slots',
        type=positive_int,
        default=8,
        help='answers generated at the same time; each needs memory '
        '(default: %(default)s)',
    )
    parser.add_argument(
        '--workers',
        type=positive_int,
        default=min(8, os.cpu_count() or 1),
        help='threads that decode images; with --server one for each request '
        '(default: %(default)s)',
    )
    add_server_options(parser)
    add_ray_options(parser)
    add_settings(parser)


def run(args: argparse.Namespace) -> int:
    """Run the verb."""
    from minigpt4.captioning.run import caption_sources
    from minigpt4.evaluation.captioned_images import read_references
    from minigpt4.utils.errors import printable

    if args.out.suffix not in SUFFIXES:
        raise UsageError(
            f'-o {printable(str(args.out))} has the suffix '
            f'{printable(args.out.suffix) or "(none)"}; expected '
            f'{", ".join(SUFFIXES)}'
        )
    if args.references is not None:
        if args.gallery is None:
            raise UsageError('--references needs --gallery, which shows them')
        args.references = read_references(args.references)
    if args.gallery is not None:
        page = args.gallery or args.out.with_suffix('.html')
        args.gallery = Path(page).expanduser()
    if args.server is not None:
        check_server_options(args)
    elif args.api_key_env is not None:
        raise UsageError('--api-key-env goes with --server')
    elif args.server_timeout is not None:
        raise UsageError('--server-timeout goes with --server')
    else:
        args.model = args.model or DEFAULT_MODEL
        check_model_options(args)
    with used_ray(args):
        return caption_sources(args)
