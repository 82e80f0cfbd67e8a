# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Train a config: python tools/train.py CONFIG [--resume] [--work-dir DIR]."""

import argparse
import contextlib
import signal
import sys

# Ctrl-C ends the process without a traceback while libraries are imported
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from mmengine.config import Config
from mmengine.dist import is_main_process

from minigpt4.engine import config
from minigpt4.engine.cfg_options import CfgOptions
from minigpt4.engine.checkpoints import latest_resumable
from minigpt4.engine.features import use_features
from minigpt4.engine.ranks import on_main_rank
from minigpt4.engine.report import reports_rank_errors
from minigpt4.utils.errors import add_debug_option
from minigpt4.utils.locks import FolderLock


def parse_args() -> argparse.Namespace:
    """The command line, as OpenMMLab's users know it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='a file of configs/minigpt4/')
    parser.add_argument(
        '--work-dir',
        help='where checkpoints and logs go (default: work_dirs/NAME)',
    )
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        help='go on from a checkpoint; without a path, from the newest '
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
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=CfgOptions,
        metavar='KEY=VALUE',
        help='settings over the config, e.g. max_iters=100 '
        'model.micro_batch_size=8',
    )
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
    )
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)
    add_debug_option(parser)
    return parser.parse_args()


@reports_rank_errors
def main() -> None:
    """Train."""
    args = parse_args()
    cfg = config.load_config(args.config, args.work_dir, args.cfg_options)
    config.require_training(cfg)
    config.start_ranks(cfg, args.launcher)
    if args.features:
        use_features(cfg, args.features)
    if args.amp:
        config.use_amp(cfg)
    with contextlib.ExitStack() as stack:
        lock = FolderLock(cfg.work_dir)
        on_main_rank(lambda: stack.enter_context(lock) and None)
        if args.resume:
            set_resume(cfg, args.resume)
        runner = config.build_runner(cfg)
        runner.train()
        runner.logger.info(f'checkpoints and logs lie in {cfg.work_dir}')
    config.leave_ranks()


def set_resume(cfg: Config, wanted: str) -> None:
    """Let a config resume a checkpoint.

    Args:
        cfg: The config; changed.
        wanted: The checkpoint; ``'auto'`` for the newest usable one.
    """
    found: str | None = wanted
    if wanted == 'auto':
        found = on_main_rank(lambda: latest_resumable(cfg.work_dir))
    if found is not None:
        cfg.resume, cfg.load_from = True, found
    elif is_main_process():
        print(f'nothing to resume in {cfg.work_dir}; starting anew')


if __name__ == '__main__':
    sys.exit(main())
