# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""``minigpt4 download``: download and check the files of a model."""

import argparse

from .options import UsageError, path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the verb."""
    parser.description = 'Download and check the files of a model.'
    parser.epilog = (
        'Variables: MINIGPT4_CACHE (folder), MINIGPT4_MIRROR (folders or URLs '
        'that have the files, tried first, separated by commas), '
        'MINIGPT4_OFFLINE=1.'
    )
    parser.add_argument(
        'what', nargs='?', metavar='NAME', help='a model, or the URL of a file'
    )
    parser.add_argument(
        '--dest',
        type=lambda text: path(text).absolute(),
        help='folder for the files, instead of the cache',
    )
    parser.add_argument(
        '--llm',
        action='store_true',
        help='download the LLM from the Hugging Face hub too',
    )
    parser.add_argument(
        '--sha256', help='with a URL: the SHA-256 that the file must have'
    )
    parser.add_argument(
        '--list', action='store_true', help='list the models and their files'
    )
    parser.add_argument(
        '--dry-run', action='store_true', help='show what would be downloaded'
    )


def run(args: argparse.Namespace) -> int:
    """Run the verb."""
    from minigpt4.model_files import download_model, list_models
    from minigpt4.utils.signals import raise_on_signals

    if args.sha256 and '://' not in (args.what or ''):
        raise UsageError('--sha256 is for the URL of a file')
    if args.list or not args.what:
        list_models()
        return 0
    note = (
        'what was downloaded is kept, and the same command continues from '
        'there.'
    )
    with raise_on_signals(note):
        return download_model(
            args.what,
            folder=args.dest,
            sha256=args.sha256,
            with_llm=args.llm,
            dry_run=args.dry_run,
        )
