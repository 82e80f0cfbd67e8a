# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""``minigpt4 data``: import data sets and look at them."""

import argparse
import importlib
from types import ModuleType

# action: what it does; its module is data_ACTION
ACTIONS = {
    'import': 'import a data set, for stage 1 or stage 2',
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the actions and their options."""
    parser.description = (
        'Tools for data. Each action has its own options: '
        'minigpt4 data ACTION --help.'
    )
    actions = parser.add_subparsers(
        dest='action', required=True, metavar='ACTION'
    )
    for name, help_ in ACTIONS.items():
        action = actions.add_parser(name, help=help_, description=help_)
        _module(name).add_arguments(action)
        # of this parser too, so that it can follow the action
        action.add_argument(
            '--debug',
            action='store_true',
            default=argparse.SUPPRESS,
            help='show the traceback of an error',
        )


def run(args: argparse.Namespace) -> int:
    """Run the verb."""
    return _module(args.action).run(args) or 0


def _module(action: str) -> ModuleType:
    return importlib.import_module(f'{__package__}.data_{action}')
