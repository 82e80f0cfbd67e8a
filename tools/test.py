# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Evaluate a checkpoint: python tools/test.py CONFIG CHECKPOINT."""

import argparse
import json
import sys

from minigpt4_cli.training_tools import add_run_options, prepare_process

prepare_process()

from mmengine.dist import is_main_process

from minigpt4.datasets.skip_summary import counted
from minigpt4.engine import config, ranks
from minigpt4.engine.hooks.scored_records import (
    SCORED,
    SKIPPED,
    ScoredRecordsHook,
)
from minigpt4.engine.rank_errors import reports_rank_errors
from minigpt4.utils.atomic import write_atomically


def parse_args() -> argparse.Namespace:
    """Parse the command line, like that of OpenMMLab's tools."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='a config with a test_dataloader')
    parser.add_argument('checkpoint', help='the checkpoint to evaluate')
    parser.add_argument('--out', metavar='FILE', help='JSON file of scores')
    add_run_options(parser)
    return parser.parse_args()


@reports_rank_errors
def main() -> None:
    """Evaluate."""
    args = parse_args()
    cfg = config.load_config(args.config, args.work_dir, args.cfg_options)
    ranks.start_ranks(cfg, args.launcher)
    config.drop_training(cfg)
    cfg.load_from = args.checkpoint
    with config.names_wrong_arguments(cfg):
        runner = config.build_runner(cfg)
        runner.register_hook(ScoredRecordsHook())
        scores = runner.test()
    if is_main_process():
        if args.out:
            write_atomically(args.out, json.dumps(scores, indent=1).encode())
            print(f'the scores are in {args.out}')
        scored, skipped = scores[SCORED], scores[SKIPPED]
        print(
            f'{counted(scored, "record")} {"was" if scored == 1 else "were"} '
            f'scored, {skipped:,} skipped'
        )
    ranks.leave_ranks()


if __name__ == '__main__':
    sys.exit(main())
