# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Evaluate a checkpoint: python tools/test.py CONFIG CHECKPOINT."""

import argparse
import json
import signal
import sys

# Ctrl-C ends the process without a traceback while libraries are imported
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from mmengine.dist import is_main_process

from minigpt4.engine import config
from minigpt4.engine.cfg_options import CfgOptions
from minigpt4.engine.report import reports_rank_errors
from minigpt4.utils.atomic import write_atomically
from minigpt4.utils.errors import add_debug_option


def parse_args() -> argparse.Namespace:
    """The command line, as OpenMMLab's users know it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='a config with a test_dataloader')
    parser.add_argument('checkpoint', help='what to evaluate')
    parser.add_argument(
        '--work-dir', help='where logs go (default: work_dirs/NAME)'
    )
    parser.add_argument('--out', help='JSON file for the scores')
    parser.add_argument(
        '--cfg-options', nargs='+', action=CfgOptions, metavar='KEY=VALUE'
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
    """Evaluate."""
    args = parse_args()
    cfg = config.load_config(args.config, args.work_dir, args.cfg_options)
    config.start_ranks(cfg, args.launcher)
    config.drop_training(cfg)
    cfg.load_from = args.checkpoint
    scores = config.build_runner(cfg).test()
    if args.out and is_main_process():
        write_atomically(args.out, json.dumps(scores, indent=1).encode())
        print(f'scores lie in {args.out}')
    config.leave_ranks()


if __name__ == '__main__':
    sys.exit(main())
