# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""``minigpt4 eval``: measure a model with one of several protocols."""

import argparse
import os

from .options import (
    UsageError,
    add_model_options,
    add_settings,
    check_model_options,
    path,
    positive_int,
)

PROTOCOLS = {
    'match': 'does a caption prefer its own image to another one?',
    'chair': 'which objects do captions name, and which of them are invented?',
    'captions': 'how similar are captions to those that people wrote?',
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the protocols and their options."""
    parser.description = (
        'Measure a model. Each protocol has its own options: '
        'minigpt4 eval PROTOCOL --help.'
    )
    protocols = parser.add_subparsers(
        dest='protocol', required=True, metavar='PROTOCOL'
    )
    for name, help_ in PROTOCOLS.items():
        protocol = protocols.add_parser(name, help=help_, description=help_)
        _ADD_OPTIONS[name](protocol)
        _add_common_options(protocol)


def run(args: argparse.Namespace) -> int:
    """Run the verb."""
    if args.protocol == 'match':
        return _run_match(args)
    _check_caption_source(args)
    if args.protocol == 'captions':
        from minigpt4.evaluation.captions_run import run_captions

        return run_captions(args)
    from minigpt4.evaluation.chair_run import run_chair

    return run_chair(args)


def _add_common_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '-o',
        '--out',
        type=path,
        metavar='DIR',
        help='the folder for raw results and scores; the same command again '
        'continues there',
    )
    parser.add_argument(
        '--overwrite',
        action='store_true',
        help='replace what is in -o, instead of continuing',
    )
    parser.add_argument(
        '--bootstrap',
        type=positive_int,
        default=1000,
        metavar='N',
        help='resamples of the 95 %% intervals (default: %(default)s)',
    )
    parser.add_argument(
        '-q', '--quiet', action='store_true', help='without progress bar'
    )
    # of this parser too, so that it can follow the protocol
    parser.add_argument(
        '--debug',
        action='store_true',
        default=argparse.SUPPRESS,
        help='show the traceback of an error',
    )


def _add_match_options(parser: argparse.ArgumentParser) -> None:
    add_model_options(parser)
    parser.add_argument(
        '--annotations',
        required=True,
        type=path,
        metavar='FILE',
        help='captions of images: captions_*.json of COCO, or another layout '
        'of training records',
    )
    parser.add_argument(
        '--images',
        required=True,
        type=path,
        metavar='DIR',
        help='the folder of the images',
    )
    parser.add_argument(
        '--limit',
        type=positive_int,
        metavar='N',
        help='use the first N images by name (default: all)',
    )
    parser.add_argument(
        '--batch-size',
        type=positive_int,
        default=64,
        metavar='N',
        help='captions of one forward pass (default: %(default)s)',
    )
    parser.add_argument(
        '--seed',
        type=int,
        default=0,
        metavar='INT',
        help='of the other image of each image (default: %(default)s)',
    )
    parser.add_argument(
        '--template',
        metavar='NAME',
        help='the prompt template, such as bare for stage 1 (default: the '
        "model's own)",
    )
    parser.add_argument(
        '--prompt',
        metavar='TEXT',
        help="the question of a caption without one (default: the model's; "
        'none with the template bare)',
    )
    parser.add_argument(
        '--clean',
        action='store_true',
        help='clean the captions as stage 1 does: lower case, no punctuation '
        '(default: as they are)',
    )


def _add_chair_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--truth',
        required=True,
        type=path,
        metavar='FILE',
        help='the COCO classes in each image: {"139": ["chair", "tv"]}',
    )
    _add_caption_source(parser)


def _add_captions_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--annotations',
        required=True,
        type=path,
        metavar='FILE',
        help='the reference captions: captions_*.json of COCO, or another '
        'layout of training records',
    )
    _add_caption_source(parser)


def _add_caption_source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--captions',
        type=path,
        metavar='FILE',
        help='score these captions (JSON lines of image_id and caption, or a '
        'results file of COCO), instead of generating some',
    )
    parser.add_argument(
        '--images',
        type=path,
        metavar='DIR',
        help='generate captions of the images in this folder and its '
        'subfolders that the file above describes',
    )
    parser.add_argument(
        '--prompt',
        metavar='TEXT',
        help="what to ask (default: the model's own prompt)",
    )
    parser.add_argument(
        '--limit',
        type=positive_int,
        metavar='N',
        help='caption the first N images by name (default: all)',
    )
    add_model_options(parser)
    parser.add_argument(
        '--slots',
        type=positive_int,
        default=8,
        help='answers generated at the same time (default: %(default)s)',
    )
    parser.add_argument(
        '--workers',
        type=positive_int,
        default=min(8, os.cpu_count() or 1),
        help='threads that decode images (default: %(default)s)',
    )
    add_settings(parser)


_ADD_OPTIONS = {
    'match': _add_match_options,
    'chair': _add_chair_options,
    'captions': _add_captions_options,
}


def _run_match(args: argparse.Namespace) -> int:
    from minigpt4.evaluation.match_run import run_match
    from minigpt4.loading import check_model
    from minigpt4.prompts import get_template
    from minigpt4.utils.errors import one_line

    try:
        check_model(args.model, args.pretrained)
        if args.template is not None:
            get_template(args.template)
    except (OSError, ValueError) as error:
        raise UsageError(one_line(error)) from error
    return run_match(args)


def _check_caption_source(args: argparse.Namespace) -> None:
    if (args.captions is None) == (args.images is None):
        raise UsageError(
            'give either --captions FILE to score captions, or --images DIR '
            'to generate and score some'
        )
    if args.captions is None:
        check_model_options(args)
