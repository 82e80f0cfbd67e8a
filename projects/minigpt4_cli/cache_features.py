# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""``minigpt4 cache-features``: encode each image once, train from features."""

import argparse
from typing import TYPE_CHECKING

from .options import UsageError, add_ray_options, used_ray

if TYPE_CHECKING:
    from mmengine.config import Config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the verb."""
    parser.description = (
        'Encode all images of a training config with the vision encoder and '
        'the Q-Former. Cached features are kept; a stopped run continues.'
    )
    parser.add_argument('config', help='a file of configs/minigpt4/')
    parser.add_argument('-o', '--out', required=True, help='the cache folder')
    parser.add_argument(
        '--dtype',
        choices=('float16', 'float32'),
        default='float16',
        help='of the stored features (default: %(default)s)',
    )
    parser.add_argument(
        '--launcher',
        choices=('none', 'pytorch', 'slurm', 'mpi'),
        default='none',
        help='with several ranks, e.g. under torchrun: pytorch',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action='extend',
        metavar='KEY=VALUE',
        help='change keys of the config',
    )
    add_ray_options(parser)


def run(args: argparse.Namespace) -> None:
    """Run the verb."""
    from mmengine.dist import is_main_process

    from minigpt4.datasets.feature_cache import FeatureCache
    from minigpt4.engine.cache_features import cache_features
    from minigpt4.engine.ranks import leave_ranks, start_ranks
    from minigpt4.utils.errors import printable
    from minigpt4.utils.signals import raise_on_signals

    note = (
        'what was cached is kept, and the same command continues from there.'
    )
    if args.ray is not None and args.launcher != 'none':
        raise UsageError('give either --ray or --launcher')
    with raise_on_signals(note):
        cfg = _read_config(args)
        start_ranks(cfg, args.launcher)
        with used_ray(args):
            counts = cache_features(cfg, args.out, dtype=args.dtype)
        if is_main_process():
            out = printable(args.out)
            print(
                f'{out}: {counts["added"]:,} images added, '
                f'{counts["known"]:,} already cached, '
                f'{counts["skipped"]:,} could not be read; '
                f'{len(FeatureCache(args.out)):,} in all'
            )
            print(f'train: python tools/train.py CONFIG --features {out}')
        leave_ranks()


def _read_config(args: argparse.Namespace) -> 'Config':
    """Read the config.

    Raises:
        OSError: It is missing.
        ValueError: It is not a config of a training.
    """
    from minigpt4.engine.cfg_options import parse_options
    from minigpt4.engine.config import load_config
    from minigpt4.utils.errors import one_line

    try:
        options = parse_options(args.cfg_options or ())
    except ValueError as error:
        raise UsageError(f'--cfg-options: {error}') from error
    try:
        cfg = load_config(args.config, options=options)
    except Exception as error:  # of any kind: a config is a program
        expected = isinstance(error, (OSError, ValueError))
        if expected and not isinstance(error, UnicodeError):
            raise
        raise ValueError(
            f'{args.config} cannot be read as a config '
            f'({type(error).__name__}: {one_line(error)}).'
        ) from error
    missing = [
        key for key in ('model', 'train_dataloader') if cfg.get(key) is None
    ]
    if missing:
        raise ValueError(
            f'{args.config} is not a config of a training: it has no '
            f'{" and no ".join(missing)}; give a file of configs/minigpt4/.'
        )
    return cfg
