# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The actions ``export`` and ``report`` of ``minigpt4 curate``."""

import argparse
import sys
from collections.abc import Sequence

from rich.console import Console

from ..utils.errors import printable
from ..utils.output_paths import check_output_folder
from ..utils.signals import raise_on_signals
from .added_files import PROBLEMS
from .commands import opened
from .export import Export, export_curation
from .history import histories
from .pipeline import plan
from .report import check_report, write_report
from .report_tables import omitted_rows, print_report
from .selection import SelectedImage, Selection, select_images
from .settings import build_steps, load_settings
from .statistics import collect_numbers

_NAMED = 10  # images that could not be exported, in the summary


def export(args: argparse.Namespace) -> int:
    """Run ``minigpt4 curate export``.

    Returns:
        0; 1 if a selected image could not be exported.

    Raises:
        ValueError: A setting is wrong, or no image can be exported.
        OSError: A file cannot be read or written.
    """
    check_output_folder(args.out)
    note = 'nothing was exported'
    with raise_on_signals(note), opened(args.ledger) as ledger:
        settings = load_settings(ledger, args.config, args.set)
        result = export_curation(
            ledger,
            plan(ledger, build_steps(settings)),
            settings.export,
            args.out,
            args.overwrite,
        )
    _print_export(result, args)
    return 1 if result.omitted else 0


def report(args: argparse.Namespace) -> int:
    """Run ``minigpt4 curate report``.

    Returns:
        0.

    Raises:
        ValueError: A setting is wrong, or the file exists and is no report.
        OSError: A file cannot be read or written.
    """
    if args.out is not None:
        check_report(args.out)
    with opened(args.ledger) as ledger:
        settings = load_settings(ledger, args.config, args.set)
        planned = plan(ledger, build_steps(settings))
        numbers = collect_numbers(ledger, planned, histories(ledger, planned))
        selection = select_images(
            histories(ledger, planned),
            settings.export.unreviewed,
            settings.export.agree,
        )
        if args.out is not None:
            write_report(args.out, numbers, selection, settings.export.title)
    print_report(Console(width=100), numbers, selection)
    _print_rule(selection, selection.rows, 'selected')
    if args.out is not None:
        print(f'report: {printable(str(args.out))}', file=sys.stderr)
    return 0


def _print_export(result: Export, args: argparse.Namespace) -> None:
    """Print what is exported, what is not, and why."""
    print(
        f'{len(result.rows):,} images exported to {printable(str(args.out))}'
    )
    for file, number in result.layouts.items():
        print(f'  {file}: {number:,} records')
    if result.converted:
        print(f'  {result.converted:,} images were converted to JPEG')
    for reason, count in omitted_rows(result.selection):
        print(f'  {count} not exported: {reason}')
    _print_rule(result.selection, result.rows, 'exported')
    kinds = [item.kind for item in result.omitted]
    for kind in dict.fromkeys(kinds):
        print(
            f'{kinds.count(kind):,} not exported: {PROBLEMS.get(kind, kind)}',
            file=sys.stderr,
        )
    for omitted in result.omitted[:_NAMED]:
        print(f'  {omitted.reason}', file=sys.stderr)
    if len(result.omitted) > _NAMED:
        more = len(result.omitted) - _NAMED
        print(f'  ... and {more:,} more in datasheet.json', file=sys.stderr)


def _print_rule(
    selection: Selection, rows: Sequence[SelectedImage], what: str
) -> None:
    """State which images without review are exported.

    Args:
        selection: The selected images.
        rows: Those that are counted.
        what: What was done with them.
    """
    if selection.reviewed_only:
        rule = (
            'only reviewed images are exported, as some have a review; '
            '--unreviewed exports the others too'
        )
    else:
        unreviewed = sum(r.decision == 'none' for r in rows)
        if not unreviewed:
            return
        rule = f'{unreviewed:,} of the {what} texts were not reviewed'
    print(f'note: {rule}.', file=sys.stderr)
