# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The actions ``export`` and ``report`` of ``minigpt4 curate``."""

import argparse
import json
from collections.abc import Callable

from .curate_options import add_settings_options
from .options import path

EXPORT_ACTIONS = {
    'report': 'show the funnel, reasons with examples, costs and reviews',
    'export': 'write the accepted texts in the layouts of trainings',
}
_LAYOUTS = ('cc_sbu_align', 'conversations', 'llava', 'parquet', 'preference')


def _add_export_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``export``."""
    parser.add_argument(
        '-o',
        '--out',
        type=path,
        required=True,
        metavar='DIR',
        help='the folder to write, completely or not at all',
    )
    parser.add_argument(
        '--layout',
        action='append',
        choices=_LAYOUTS,
        help='layout of the texts; may be given several times (default: '
        'cc_sbu_align)',
    )
    parser.add_argument(
        '--images',
        choices=('copy', 'hardlink', 'symlink'),
        help='how JPEG files are placed (default: copy); others are converted',
    )
    parser.add_argument(
        '--overwrite', action='store_true', help='replace an earlier export'
    )
    _add_selection_options(parser)
    add_settings_options(parser)


def _add_report_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``report``."""
    parser.add_argument(
        '-o',
        '--out',
        type=path,
        metavar='FILE.html',
        help='write the report with examples as one HTML page too',
    )
    _add_selection_options(parser)
    add_settings_options(parser)


def _run_export(args: argparse.Namespace) -> int:
    """Run ``minigpt4 curate export``."""
    from minigpt4.curation.export_commands import export

    return export(with_flags(args))


def _run_report(args: argparse.Namespace) -> int:
    """Run ``minigpt4 curate report``."""
    from minigpt4.curation.export_commands import report

    return report(with_flags(args))


def with_flags(args: argparse.Namespace) -> argparse.Namespace:
    """Return the arguments with the flags as settings of ``export``."""
    flags = {
        'layouts': getattr(args, 'layout', None),
        'images': getattr(args, 'images', None),
        'unreviewed': args.unreviewed or None,
        'agree': args.agree,
    }
    given = [
        f'export.{name}={json.dumps(value)}'
        for name, value in flags.items()
        if value is not None
    ]
    return argparse.Namespace(**{**vars(args), 'set': [*args.set, *given]})


def _add_selection_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--unreviewed',
        action='store_true',
        help='take images without review too, where others have one',
    )
    parser.add_argument(
        '--agree',
        choices=('all', 'any'),
        help='reviewers of an image that must accept it (default: all)',
    )


EXPORT_OPTIONS: dict[str, Callable[[argparse.ArgumentParser], None]] = {
    'report': _add_report_options,
    'export': _add_export_options,
}
EXPORT_RUN: dict[str, Callable[[argparse.Namespace], int]] = {
    'report': _run_report,
    'export': _run_export,
}
