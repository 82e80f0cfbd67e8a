# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""``minigpt4 cache-features``: see each image once, train from features."""

import argparse
import sys
from collections.abc import Sequence

from mmengine.dist import is_main_process

from ..datasets.feature_cache import FeatureCache
from ..engine.cfg_options import CfgOptions
from ..engine.config import leave_ranks, load_config, start_ranks
from ..engine.features import cache_features


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: The command line after the verb.

    Returns:
        0, or 1 after a sentence that says what was wrong.
    """
    args = _parser().parse_args(argv)
    try:
        cfg = load_config(args.config, options=args.cfg_options)
        start_ranks(cfg, args.launcher)
        counts = cache_features(cfg, args.out, dtype=args.dtype)
    except (OSError, ValueError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    if is_main_process():
        print(
            f'{args.out}: {counts["added"]:,} images added, '
            f'{counts["known"]:,} were there, {counts["skipped"]:,} could '
            f'not be read; {len(FeatureCache(args.out)):,} in all'
        )
        print(f'train: python tools/train.py CONFIG --features {args.out}')
    leave_ranks()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='minigpt4 cache-features',
        description='Run backbone and neck over all images of a training '
        'config. What is there already is kept; a killed run goes on.',
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
    return parser
