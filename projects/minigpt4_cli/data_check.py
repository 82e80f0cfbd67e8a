# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The options of ``minigpt4 data check``."""

import argparse
import os

from .options import DEFAULT_MODEL, UsageError, path, positive_int

# limit: what it counts, and the default
LIMITS = {
    'unreadable': 'images that cannot be read (default: 0)',
    'invalid': 'records that cannot be used (default: 0)',
    'damaged': 'damages in shards (default: 0)',
    'unfinished': 'shards that img2dataset did not finish (default: 0)',
    'empty': 'texts of fewer than three letters (default: 0)',
    'too-long': 'records longer than the context (default: 0)',
    'overlap': 'images in training and held-out data (default: 0)',
    'overlap-texts': 'records whose text is in both (default: any)',
    'dead-links': 'links without an image, of img2dataset (default: any)',
    'truncated': 'records with an answer that is cut (default: any)',
    'duplicate-images': 'files that repeat another (default: any)',
    'near-duplicates': 'images that resemble another (default: any)',
    'duplicate-texts': 'records that repeat a text (default: any)',
    'no-text': 'images without a text (default: any)',
    'blank': 'images of one colour (default: any)',
    'tiny': 'images with a side below 32 pixels (default: any)',
    'aspect': 'images of an aspect ratio above 4 (default: any)',
}


def add_sources(parser: argparse.ArgumentParser) -> None:
    """Add the sources, the folder of images and the model."""
    parser.add_argument(
        'sources',
        nargs='+',
        metavar='DATA',
        help='a folder, shards ("data/{00000..00009}.tar") or a file of '
        'records (JSON, JSON lines, CSV, TSV)',
    )
    parser.add_argument(
        '--images',
        type=path,
        metavar='DIR',
        help='the folder of the images of a file of records (default: image '
        'or images next to it, or its own folder)',
    )
    parser.add_argument(
        '--model',
        '--config',
        default=DEFAULT_MODEL,
        metavar='NAME',
        help='whose tokenizer, template and lengths are used: a model of '
        '"minigpt4 download --list", or the file of a (training) config '
        '(default: %(default)s)',
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_sources(parser)
    parser.epilog = (
        'Exit status: 0 if nothing exceeds what is accepted, 1 if something '
        'does or the manifest differs, or after an error, 2 if the command '
        'line is wrong, 128 + N after signal N.'
    )
    parser.add_argument(
        '--against',
        nargs='+',
        metavar='DATA',
        help='held-out data, whose images and texts should not be in DATA',
    )
    parser.add_argument(
        '-o',
        '--out',
        type=path,
        metavar='DIR',
        help='a folder for report.html, summary.json, problems.jsonl, '
        'manifest.json (a config may name it as "shards") and '
        'retry_links.jsonl; a check that was stopped continues with the '
        'same command',
    )
    parser.add_argument(
        '--verify',
        type=path,
        metavar='MANIFEST',
        help='compare the digests of files and images with a manifest.json',
    )
    parser.add_argument(
        '--near',
        type=int,
        default=4,
        choices=range(11),
        metavar='BITS',
        help='bits in which the perceptual hashes of similar images may '
        'differ, 0 to 10; 0 searches none (default: %(default)s)',
    )
    parser.add_argument(
        '--workers',
        type=positive_int,
        default=min(8, os.cpu_count() or 1),
        metavar='N',
        help='threads that decode images (default: %(default)s)',
    )
    parser.add_argument(
        '-q',
        '--quiet',
        action='store_true',
        help='print only what exceeds a limit, without progress bar',
    )
    group = parser.add_argument_group(
        'accepted problems', 'a number, or a percentage such as 0.5%'
    )
    for name, help_ in LIMITS.items():
        group.add_argument(f'--max-{name}', metavar='N', help=help_)


def run(args: argparse.Namespace) -> int:
    """Run the action."""
    from minigpt4.data_tools.check import check_data
    from minigpt4.data_tools.limits import parse_limit

    args.limits = {}
    for name in LIMITS:
        text = getattr(args, f'max_{name.replace("-", "_")}')
        if text is not None:
            try:
                args.limits[name] = parse_limit(text)
            except ValueError as error:
                raise UsageError(f'--max-{name}: {error}') from error
    return check_data(args)
