# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Train a config: python tools/train.py CONFIG [--resume] [--work-dir DIR]."""

import argparse

from mmengine.config import DictAction


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
        help='go on from a checkpoint; without a path, from the latest of '
        'the work dir',
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
        action=DictAction,
        help='settings over the config, e.g. max_iters=100 '
        'model.micro_batch_size=8',
    )
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
    )
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)
    return parser.parse_args()


def main() -> None:
    """Train."""
    args = parse_args()
    from minigpt4.engine import config
    from minigpt4.engine.features import use_features

    cfg = config.load_config(args.config, args.work_dir, args.cfg_options)
    config.start_ranks(cfg, args.launcher)
    if args.features:
        use_features(cfg, args.features)
    if args.amp:
        config.use_amp(cfg)
    if args.resume:
        found = (
            config.latest_checkpoint(cfg.work_dir)
            if args.resume == 'auto'
            else args.resume
        )
        if found is None:
            print(f'nothing to resume in {cfg.work_dir}; starting anew')
        else:
            cfg.resume, cfg.load_from = True, found
    runner = config.build_runner(cfg)
    runner.train()
    runner.logger.info(f'checkpoints and logs lie in {cfg.work_dir}')
    config.leave_ranks()


if __name__ == '__main__':
    main()
