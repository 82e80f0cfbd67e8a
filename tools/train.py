# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Train a config: python tools/train.py CONFIG [--resume] [--work-dir DIR]."""

import argparse
import contextlib
import sys

from minigpt4_cli.training_tools import add_run_options, prepare_process

prepare_process()

from mmengine.config import Config
from mmengine.dist import is_main_process

from minigpt4.engine import config, ranks
from minigpt4.engine.cache_features import use_features
from minigpt4.engine.rank_errors import reports_rank_errors
from minigpt4.engine.resume_checks import latest_resumable
from minigpt4.utils.locks import FolderLock


def parse_args() -> argparse.Namespace:
    """Parse the command line, like that of OpenMMLab's tools."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='a file of configs/minigpt4/')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='FILE',
        help='resume a run from a checkpoint; without FILE from the newest '
        'usable one of the work dir',
    )
    parser.add_argument(
        '--amp', action='store_true', help='train in 16 bits on a GPU'
    )
    parser.add_argument(
        '--features',
        metavar='DIR',
        help='train from a cache of minigpt4 cache-features, without vision '
        'weights',
    )
    add_run_options(parser)
    return parser.parse_args()


@reports_rank_errors
def main() -> None:
    """Train."""
    args = parse_args()
    cfg = config.load_config(args.config, args.work_dir, args.cfg_options)
    config.require_training(cfg)
    ranks.start_ranks(cfg, args.launcher)
    if args.features:
        use_features(cfg, args.features)
    if args.amp:
        config.use_amp(cfg)
    with contextlib.ExitStack() as stack:
        lock = FolderLock(cfg.work_dir)
        ranks.on_main_rank(lambda: stack.enter_context(lock) and None)
        if args.resume:
            set_resume(cfg, args.resume)
        with config.names_wrong_arguments(cfg):
            runner = config.build_runner(cfg)
            runner.train()
        runner.logger.info(f'checkpoints and logs are in {cfg.work_dir}')
    ranks.leave_ranks()


def set_resume(cfg: Config, requested: str) -> None:
    """Set a config to resume a checkpoint.

    Args:
        cfg: The config; changed.
        requested: The checkpoint; ``'auto'`` for the newest usable one.
    """
    path: str | None = requested
    if requested == 'auto':
        path = ranks.on_main_rank(lambda: latest_resumable(cfg.work_dir))
    if path is not None:
        cfg.resume, cfg.load_from = True, path
    elif is_main_process():
        print(f'nothing to resume in {cfg.work_dir}; starting a new run')


if __name__ == '__main__':
    sys.exit(main())
