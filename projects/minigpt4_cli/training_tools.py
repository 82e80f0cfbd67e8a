# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Start-up and options that ``tools/train.py`` and ``tools/test.py`` share."""

import argparse
import signal

from .openmp import limit_spinning


def prepare_process() -> None:
    """Prepare a process before libraries are imported.

    Ctrl-C ends it without a traceback until the tool installs its own signal
    handlers, and idle OpenMP threads do not occupy a core.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    limit_spinning()


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of OpenMMLab's tools, and ``--debug``."""
    from minigpt4.engine.cfg_options import CfgOptions
    from minigpt4.utils.errors import add_debug_option

    parser.add_argument(
        '--work-dir',
        metavar='DIR',
        help='folder of logs and results (default: work_dirs/NAME)',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=CfgOptions,
        metavar='KEY=VALUE',
        help='change settings of the config, e.g. max_iters=100 '
        'model.micro_batch_size=8',
    )
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='set by dist_train.sh, dist_test.sh and slurm_train.sh',
    )
    parser.add_argument(
        '--local_rank',
        '--local-rank',
        type=int,
        default=0,
        help=argparse.SUPPRESS,  # some launchers pass it
    )
    add_debug_option(parser)
