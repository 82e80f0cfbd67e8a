# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Options that several actions of ``minigpt4 curate`` have.

An action may have actions of its own. Their parsers have these options too
(``nested``), so that an option can be on either side of their name. They
have no default there, because it would replace a value before that name.
"""

import argparse
from pathlib import Path

from .options import path

_LEDGER = Path('curation.sqlite')


def add_common_options(
    parser: argparse.ArgumentParser, nested: bool = False
) -> None:
    """Add ``--ledger`` and ``--debug``."""
    parser.add_argument(
        '--ledger',
        type=path,
        default=argparse.SUPPRESS if nested else _LEDGER,
        metavar='FILE',
        help=f'the file of all results (default: {_LEDGER})',
    )
    # of this parser too, so that it can follow the action
    parser.add_argument(
        '--debug',
        action='store_true',
        default=argparse.SUPPRESS,
        help='show the traceback of an error',
    )


def add_settings_options(
    parser: argparse.ArgumentParser, nested: bool = False
) -> None:
    """Add ``--config`` and ``--set``.

    A nested parser stores ``--set`` as ``nested_set``: those on both sides
    of the name count, see :func:`joined_settings`.
    """
    parser.add_argument(
        '--config',
        type=path,
        default=argparse.SUPPRESS if nested else None,
        metavar='FILE.yml',
        help='settings by section (default: those of the last run on the '
        'ledger)',
    )
    parser.add_argument(
        '--set',
        action='append',
        default=[],
        dest='nested_set' if nested else 'set',
        metavar='SECTION.FIELD=VALUE',
        help='change a setting, e.g. rules.min_words=10; may be given '
        'several times',
    )


def joined_settings(args: argparse.Namespace) -> argparse.Namespace:
    """Return the arguments with ``nested_set`` after ``set``."""
    return argparse.Namespace(
        **{**vars(args), 'set': [*args.set, *args.nested_set]}
    )
