# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Run of ``minigpt4 compare``: read two folders, print why they differ."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from ..utils.atomic import write_atomically
from ..utils.errors import printable
from ..utils.json_files import read_json
from ..utils.output_paths import check_output_file
from ..utils.progress import progress_bar
from .compare import Comparison, compare_results
from .compare_page import MOST, check_page, write_page
from .compare_tables import (
    folder_lines,
    good_line,
    pair_lines,
    score_rows,
    setting_rows,
)
from .compared_folder import read_results

_NAMED = 5  # samples on the terminal


def run_compare(args: argparse.Namespace) -> int:
    """Compare two result folders; print the comparison.

    Args:
        args: The options of ``minigpt4 compare``.

    Returns:
        0.

    Raises:
        ValueError: The folders cannot be compared, or a file to write is
            another one.
        OSError: A file cannot be read or written.
    """
    if args.images is not None and not args.images.is_dir():
        raise FileNotFoundError(
            f'{args.images} is not a folder; give the folder of the images.'
        )
    if args.out is not None:
        check_page(args.out)
    if args.json is not None:
        _check_json(args.json)
    first, second = (read_results(folder) for folder in args.folders)
    with progress_bar(visible=not args.quiet) as bar:
        task = bar.add_task('resamples', total=2 * args.resamples)
        comparison = compare_results(
            first,
            second,
            args.resamples,
            lambda number: bar.advance(task, number),
        )
    _print(comparison)
    if args.json is not None:
        data = json.dumps(comparison.to_json(), ensure_ascii=False, indent=2)
        write_atomically(
            args.json, (data + '\n').encode(errors='backslashreplace')
        )
    if args.out is not None:
        write_page(args.out, comparison, args.images)
        omitted = max(0, len(comparison.pairs) - MOST)
        more = f', without {omitted:,} of the samples' if omitted else ''
        print(f'page: {printable(str(args.out))}{more}', file=sys.stderr)
    return 0


def _print(comparison: Comparison) -> None:
    for line in folder_lines(comparison):
        print(line)
    rows: list[Any] = setting_rows(comparison)
    if rows:
        print()
        _print_table([('settings that differ', '1', '2'), *rows])
    else:
        print('all settings are equal')
    print()
    head = ('', '1', '2', '2 minus 1', '95 % interval', 'p')
    _print_table([head, *score_rows(comparison)], right=True)
    if line := good_line(comparison):
        print(line)
    print()
    pairs = comparison.pairs
    print(f'{len(pairs):,} {comparison.protocol.changed}')
    for pair in pairs[:_NAMED]:
        print('\n'.join(pair_lines(pair)))
    if len(pairs) > _NAMED:
        print(f'{len(pairs) - _NAMED:,} more')


def _print_table(rows: list[tuple[str, ...]], right: bool = False) -> None:
    """Print columns; all but the first one at the right on request."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.rjust(width) if right and i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print('  '.join(cells).rstrip())


def _check_json(path: Path) -> None:
    """Check that a comparison can be written, before the work for it.

    Raises:
        ValueError: The file exists and is not a comparison, or is a symbolic
            link to nothing.
        OSError: Its folder takes no new files.
    """
    check_output_file(path)
    if not path.exists():
        return
    try:
        found = read_json(path, 'a comparison')
    except ValueError:
        found = None
    if not isinstance(found, dict) or 'differing' not in found:
        raise ValueError(
            f'{printable(str(path))} exists and is not a comparison of '
            '"minigpt4 compare"; give another name as --json.'
        )
