# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The findings of ``minigpt4 doctor``, as a screen of text or as a dict."""

from collections.abc import Iterator
from typing import Any


class Report:
    """The findings of all checks.

    Attributes:
        python: ``found`` and ``required`` version of Python.
        packages: A dict for each required or optional package: ``name``,
            ``found``, ``required``, ``extra``, ``state``.
        devices: Lines on the CPU and the GPUs.
        weights: Lines on the shipped weights and the user's LLM.
        faults: A dict for each fault: ``what`` does not work, and its
            ``fix``.
    """

    def __init__(self) -> None:
        self.python: dict[str, str] = {}
        self.packages: list[dict[str, Any]] = []
        self.devices: list[str] = []
        self.weights: list[str] = []
        self.faults: list[dict[str, str]] = []

    def add_fault(self, what: str, fix: str) -> None:
        """Add what does not work, and the command that repairs it."""
        self.faults.append({'what': what, 'fix': fix})

    def as_dict(self) -> dict[str, Any]:
        """Return the report for JSON.

        It also has the keys of version 0.1, for one release.
        """
        python = dict(self.python)
        if 'required' in python:
            python['wanted'] = python['required']
        return dict(
            python=python,
            packages=[{**p, 'wanted': p['required']} for p in self.packages],
            devices=self.devices,
            weights=self.weights,
            faults=[{**fault, 'mend': fault['fix']} for fault in self.faults],
        )


def print_report(report: Report) -> None:
    """Print versions, devices, weights and faults, in color if possible."""
    try:
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        _print_plain(report)
        return
    console = Console(highlight=False)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ('package', 'found', 'required', 'state'):
        table.add_column(heading, overflow='fold')
    for cells in _table_rows(report):
        state = cells[-1]
        is_good = state in ('ok', '') or 'not installed' in state
        table.add_row(*map(Text, cells), style=None if is_good else 'red')
    console.print(table)
    for line in (*report.devices, *report.weights):
        console.print(Text(line))
    for fault in report.faults:
        console.print()
        console.print(Text(f'✗ {fault["what"]}', 'red'))
        console.print(Text(f'  fix: {fault["fix"]}'), soft_wrap=True)
    console.print()
    console.print(
        Text(_summary(report), 'bold red' if report.faults else 'bold green')
    )


def _print_plain(report: Report) -> None:
    """Print the report without rich."""
    for cells in _table_rows(report):
        print(f'{cells[0]:28} {cells[1]:12} {cells[2]:20} {cells[3]}')
    print('\n'.join([*report.devices, *report.weights]))
    for fault in report.faults:
        print(f'\n* {fault["what"]}\n  fix: {fault["fix"]}')
    print('\n' + _summary(report))


def _table_rows(report: Report) -> Iterator[tuple[str, str, str, str]]:
    """Yield the cells of each table row."""
    python = report.python
    if python:
        yield 'python', python['found'], python['required'], ''
    for package in report.packages:
        extra = package['extra']
        yield (
            package['name'] + (f' (optional: {extra})' if extra else ''),
            package['found'] or '-',
            package['required'],
            package['state'],
        )


def _summary(report: Report) -> str:
    count = len(report.faults)
    if not count:
        return 'No fault found.'
    plural = 's' if count > 1 else ''
    return f'{count} fault{plural} found; fix the first one first.'
