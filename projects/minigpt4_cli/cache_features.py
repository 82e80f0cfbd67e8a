# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""``minigpt4 cache-features``: encode each image once, train from features."""

import argparse
from collections.abc import Sequence

from mmengine.config import Config
from mmengine.dist import is_main_process

from minigpt4.datasets.feature_cache import FeatureCache
from minigpt4.engine.cfg_options import CfgOptions
from minigpt4.engine.config import leave_ranks, load_config, start_ranks
from minigpt4.engine.features import cache_features
from minigpt4.utils.errors import (
    add_debug_option,
    one_line,
    printable,
    reports_errors,
)
from minigpt4.utils.signals import raise_on_signals


@reports_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: The command line after the command's name.

    Returns:
        0; 1 after an error, 128 + N after signal N.
    """
    args = _parser().parse_args(argv)
    note = (
        'what was cached is kept, and the same command continues from there.'
    )
    with raise_on_signals(note):
        cfg = _config(args)
        start_ranks(cfg, args.launcher)
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
    return 0


def _config(args: argparse.Namespace) -> Config:
    """Read the config.

    Raises:
        OSError: It is missing.
        ValueError: It is not a config of a training.
    """
    try:
        cfg = load_config(args.config, options=args.cfg_options)
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='minigpt4 cache-features',
        description='Run backbone and neck over all images of a training '
        'config. What is cached is kept; a killed run can be continued.',
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
    parser.add_argument('--cfg-options', nargs='+', action=CfgOptions)
    add_debug_option(parser)
    return parser
