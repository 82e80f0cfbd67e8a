# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Run benchmarks, print their table and store their figures.

    python benchmarks/run.py [--gpu] [--json FILE] [NAME...]

Each NAME is a benchmark; without any, all run that need no GPU, or with
``--gpu`` all that need one. The exit status is 1 where a guard failed or a
benchmark raised an error; a missed goal is not a failure.
"""

import argparse
import datetime
import importlib
import importlib.metadata
import json
import os
import platform
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # the benchmarks are in this folder

import harness  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

# name of each benchmark: module with its ``measure(repeats)``, which returns
# rows of the results
ROWS = {
    's1-step': 's1_step',
    's1-cached': 's1_cached',
    's1-int8': 's1_int8',
    's2-step': 's2_step',
    'tower-nograd': 'tower_nograd',
    'step-host': 'step_host',
    'loop-host': 'loop_host',
    'image-pipe': 'image_pipe',
    'load': 'load',
    'rank-scale': 'rank_scale',
    'stage1-scaling': 'stage1_scaling',
    'busy': 'busy',
    'startup': 'startup',
    'decode-host': 'decode_host',
    'ttft': 'ttft',
    'caption-batch': 'caption_batch',
    'multi-choice': 'multi_choice',
    'batch-scale': 'batch_scale',
    'serve-load': 'serve_load',
    'serve-fuzz': 'serve_fuzz',
    'small': 'small',
    'curation': 'curation',
    'evaluation': 'evaluation',
    'data-import': 'data_import',
}
GPU_ROWS = {
    's1-h200': 'gpu_training',
    's1-cached-h200': 'gpu_training',
    's2-h200': 'gpu_training',
    'vit-encode': 'gpu_vit_encode',
    'mem': 'gpu_mem',
    'load-h200': 'gpu_load',
    'decode-b1': 'gpu_decode',
    'ttft-h200': 'gpu_decode',
    'caption-h200': 'gpu_decode',
}
PACKAGES = ('minigpt4', 'torch', 'transformers', 'mmengine', 'numpy')


def machine() -> str:
    """Describe the processor, the usable cores and the memory."""
    model = platform.processor() or platform.machine()
    cpus = Path('/proc/cpuinfo')
    if cpus.exists():
        names = [
            line.split(':', 1)[1].strip()
            for line in cpus.read_text().splitlines()
            if line.startswith('model name')
        ]
        model = names[0] if names else model
    cores = (
        len(os.sched_getaffinity(0))
        if hasattr(os, 'sched_getaffinity')
        else os.cpu_count()
    )
    memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30
    return f'{model}, {cores} cores, {memory:.0f} GB'


def versions() -> dict[str, str]:
    """Versions of Python and of the measured packages."""
    found = {'python': platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = 'not installed'
    return found


def measure(names: list[str], repeats: int) -> Iterator[dict]:
    """Run benchmarks; after an error in one, the next one runs."""
    everything = ROWS | GPU_ROWS
    for name in names:
        print(f'{name} ...', file=sys.stderr, flush=True)
        try:
            module = importlib.import_module(everything[name])
            # row by row: earlier rows are not lost by an error
            for row in module.measure(name if name in GPU_ROWS else repeats):
                figures = (number(row[key]) for key in ('ours', 'peer'))
                print(row['name'], *figures, row['unit'], file=sys.stderr)
                yield row
        except Exception as error:  # of any kind: the other rows still run
            traceback.print_exc()
            yield harness.row(
                name, None, '', guard='broke off', error=str(error)
            )


def number(value: float | None, end: str = '') -> str:
    """Format a figure with four digits; '' for None."""
    return '' if value is None else f'{value:.4g}{end}'


def print_table(rows: list[dict]) -> None:
    """Print rows as a table."""
    table = Table(title='minimum of all repetitions (median in brackets)')
    for column in ('name', 'ours', 'peer', 'unit', 'ratio', 'goal'):
        justify = 'left' if column in ('name', 'unit') else 'right'
        table.add_column(column, justify=justify)
    table.add_column('met')
    table.add_column('guard')
    table.add_column('command', overflow='fold')
    for row in rows:
        median = row.get('median', {})

        def both(key: str, end: str = '', row=row, median=median) -> str:
            text = number(row[key], end)
            if median.get(key) is not None:
                text += f'\n({number(median[key], end)})'
            return text

        goals = [
            number(row['goal'], 'x') and '>= ' + number(row['goal'], 'x'),
            number(row['at_most']) and '<= ' + number(row['at_most']),
            number(row['at_least']) and '>= ' + number(row['at_least']),
        ]
        why = row.get('skipped') or row.get('error')
        table.add_row(
            row['name'],
            both('ours'),
            '\n'.join(filter(None, (both('peer'), row.get('peer_name')))),
            row['unit'],
            both('ratio', 'x'),
            '\n'.join(filter(None, goals)),
            'not run' if why else 'yes' if row['met'] else 'no',
            why
            or ('' if row['guard_ok'] else 'FAILED: ')
            + row['guard'].replace(', ', '\n'),
            row['command'],
        )
    Console(width=None if sys.stdout.isatty() else 160).print(table)


class Results:
    """Stores the rows of this run in the file of its date.

    Args:
        folder: The folder of these files.
    """

    def __init__(self, folder: Path) -> None:
        now = datetime.datetime.now().astimezone()
        self.file = folder / f'{now:%Y-%m-%d}.json'
        self.run = dict(
            time=now.isoformat(timespec='milliseconds'),
            machine=machine(),
            versions=versions(),
        )

    def store(self, rows: list[dict]) -> None:
        """Write the rows so far, together with earlier runs."""
        before = (
            json.loads(self.file.read_text()) if self.file.exists() else []
        )
        before = [run for run in before if run['time'] != self.run['time']]
        self.file.parent.mkdir(parents=True, exist_ok=True)
        write([*before, dict(self.run, rows=rows)], self.file)


def write(content: list, file: Path) -> None:
    """Write JSON atomically."""
    temporary = file.with_name(file.name + '.part')
    temporary.write_text(json.dumps(content, indent=1) + '\n')
    temporary.replace(file)


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('names', nargs='*', metavar='NAME')
    parser.add_argument('--gpu', action='store_true', help='rows for a GPU')
    parser.add_argument('--json', type=Path, help='also write the rows here')
    parser.add_argument('--list', action='store_true', help='names of rows')
    parser.add_argument('--repeats', type=int, default=harness.REPEATS)
    parser.add_argument(
        '--results', type=Path, default=HERE / 'results', help='dated files'
    )
    options = parser.parse_args(arguments)
    if options.list:
        print('\n'.join([*ROWS, *GPU_ROWS]))
        return 0
    unknown = set(options.names) - set(ROWS) - set(GPU_ROWS)
    if unknown:
        parser.error(
            f'there is no row {", ".join(sorted(unknown))}; expected one of '
            f'{", ".join([*ROWS, *GPU_ROWS])}.'
        )
    names = options.names or list(GPU_ROWS if options.gpu else ROWS)
    results, rows = Results(options.results), []
    for row in measure(names, options.repeats):
        rows.append(row)
        results.store(rows)  # for runs that are stopped
    print_table(rows)
    print(f'appended to {results.file}')
    if options.json:
        write(rows, options.json)
    broken = [
        row
        for row in rows
        if not row.get('skipped') and (row.get('error') or not row['guard_ok'])
    ]
    return 1 if broken else 0


if __name__ == '__main__':
    raise SystemExit(main())
