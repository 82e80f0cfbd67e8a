# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""``minigpt4 data``: import, check and browse data sets."""

import argparse
import importlib

# action: what it does; its module is data_ACTION, with the options
ACTIONS = {
    'browse': 'a local page of the records, with the tokens that the LLM '
    'receives',
    'check': 'count, measure and find what is wrong with data; for scripts '
    'too',
    'import': 'read a data set of any common format for stage 1 or stage 2',
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the actions and their options."""
    parser.description = (
        'Work with data sets. Each action has its own options: '
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
    return _module(args.action).run(args)


def _module(action: str):  # type: ignore[no-untyped-def]
    return importlib.import_module(f'{__package__}.data_{action}')
