# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Options that several actions of ``minigpt4 curate`` have."""

import argparse

from .options import path


def add_settings_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--config`` and ``--set``."""
    parser.add_argument(
        '--config',
        type=path,
        metavar='FILE.yml',
        help='settings by section (default: those of the last run on the '
        'ledger)',
    )
    parser.add_argument(
        '--set',
        action='append',
        default=[],
        metavar='SECTION.FIELD=VALUE',
        help='change a setting, e.g. rules.min_words=10; may be given '
        'several times',
    )
