# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Draw the loss curves of training runs, from the logs in their work dirs.

    python tools/plot_log.py work_dirs/stage1 work_dirs/other -o curves.html

draws loss, learning rate and gradient norm of all runs (those that were
logged) as an HTML page, an SVG or a PNG file.
"""

import argparse
import html
import io
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from minigpt4.utils.atomic import write_atomically
from minigpt4.utils.errors import add_debug_option, printable, reports_errors

QUANTITIES = {  # key in the log: (title, whether the axis is logarithmic)
    'loss': ('loss, nats per token', False),
    'lr': ('learning rate', False),
    'grad_norm': ('gradient norm', True),
}
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Training curves</title>
<meta http-equiv="Content-Security-Policy"
content="default-src 'none'; style-src 'unsafe-inline'">
<style>body {{ font: 15px system-ui, sans-serif; margin: 1rem; }}
svg {{ max-width: 100%; height: auto; background: #fff; }}
td, th {{ text-align: right; padding: .1rem .8rem; }}
td:first-child {{ text-align: left; }}</style></head>
<body><h1>Training curves</h1>
{figure}
<table><tr><th>run</th><th>logs</th><th>steps</th><th>last loss, smoothed</th>
<th>bad lines</th></tr>
{rows}
</table></body></html>
"""


class Run(NamedTuple):
    """The log of a training run.

    Attributes:
        name: The work dir.
        files: Number of its log files.
        rows: The lines of steps of the training by their number, in order.
        bad_lines: Lines that are no JSON object with a step.
    """

    name: str
    files: int
    rows: dict[int, dict[str, float]]
    bad_lines: int

    def curve(self, key: str) -> tuple[list[int], list[float]]:
        """Steps and values of a quantity, without values like NaN."""
        points = [
            (step, row[key])
            for step, row in self.rows.items()
            if isinstance(row.get(key), (int, float))
            and math.isfinite(row[key])
        ]
        return [step for step, _ in points], [value for _, value in points]


def read_run(folder: Path) -> Run:
    """Read the logs of a work dir, oldest first.

    A run that was resumed has several logs. A later one replaces what the
    earlier ones have from its first step on.

    Args:
        folder: The work dir, or a folder of one log in it.

    Raises:
        ValueError: It has no log, or no log has a step of a training.
    """
    # names of folders begin with date and time
    files = sorted(folder.rglob('scalars.json'))
    if not files:
        files = sorted(folder.glob('**/vis_data/*.json'))
    if not files:
        raise ValueError(
            f'{folder} has no vis_data/scalars.json, the log of a training; '
            'give the work dir of a run.'
        )
    rows: dict[int, dict[str, float]] = {}
    bad_lines = 0
    for file in files:
        found: dict[int, dict[str, float]] = {}
        for line in file.read_text('utf-8-sig', 'replace').splitlines():
            row = _parse(line)
            if row is None:
                bad_lines += bool(line.strip())
            elif QUANTITIES.keys() & row.keys():  # no scores of a validation
                found[row['step']] = row
        if found:
            start = min(found)
            rows = {s: row for s, row in rows.items() if s < start} | found
    if not rows:
        raise ValueError(
            f'the logs in {folder} have no step of a training ({len(files)} '
            f'logs, {bad_lines} bad lines); give the work dir of a run.'
        )
    return Run(str(folder), len(files), dict(sorted(rows.items())), bad_lines)


def _parse(line: str) -> dict | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    if not isinstance(row, dict):
        return None
    step = row.get('step')
    valid = isinstance(step, int) and not isinstance(step, bool) and step >= 0
    return row if valid else None


def smoothed(values: Sequence[float], weight: float) -> list[float]:
    """Exponential mean of the values so far.

    Args:
        values: One for each logged step.
        weight: Of the values before the last, 0 to below 1; 0 changes nothing.
    """
    mean = total = 0.0
    means = []
    for value in values:
        mean = weight * mean + (1 - weight) * value
        total = weight * total + 1 - weight
        means.append(mean / total)
    return means


def draw(runs: Sequence[Run], weight: float, kind: str) -> bytes:
    """Draw all quantities that were logged, one plot for each.

    Args:
        runs: The runs, each in a colour of its own.
        weight: Of :func:`smoothed`.
        kind: ``'svg'`` or ``'png'``.
    """
    import matplotlib

    matplotlib.use('Agg')
    matplotlib.rcParams['svg.hashsalt'] = 'minigpt4'  # the same bytes again
    from matplotlib import pyplot as plt

    rows = [row for run in runs for row in run.rows.values()]
    keys = [key for key in QUANTITIES if any(key in row for row in rows)]
    figure, axes = plt.subplots(
        1, len(keys), figsize=(5.2 * len(keys), 3.8), squeeze=False
    )
    for key, axis in zip(keys, axes[0], strict=True):
        title, logarithmic = QUANTITIES[key]
        for number, run in enumerate(runs):
            colour = f'C{number % 10}'
            steps, values = run.curve(key)
            if key == 'lr':
                axis.plot(steps, values, color=colour)
                continue
            axis.plot(steps, values, color=colour, alpha=0.3, linewidth=0.8)
            axis.plot(steps, smoothed(values, weight), color=colour)
        if logarithmic:
            axis.set_yscale('log')
        axis.set(title=title, xlabel='step')
        axis.grid(alpha=0.3)
    lines = [plt.Line2D([], [], color=f'C{i % 10}') for i in range(len(runs))]
    # a $ would begin a formula
    labels = [printable(run.name).replace('$', r'\$') for run in runs]
    figure.tight_layout()
    figure.legend(lines, labels, loc='upper center', bbox_to_anchor=(0.5, 0.0))
    buffer = io.BytesIO()
    metadata = {'Date': None} if kind == 'svg' else None
    figure.savefig(
        buffer, format=kind, dpi=120, bbox_inches='tight', metadata=metadata
    )
    plt.close(figure)
    return buffer.getvalue()


def table(runs: Sequence[Run], weight: float) -> list[tuple[str, ...]]:
    """Name, logs, steps, last smoothed loss and bad lines of each run."""
    rows = []
    for run in runs:
        losses = smoothed(run.curve('loss')[1], weight)
        rows.append(
            (
                printable(run.name),
                f'{run.files}',
                f'{max(run.rows):,}',
                f'{losses[-1]:.4f}' if losses else '-',
                f'{run.bad_lines}',
            )
        )
    return rows


def to_page(figure: bytes, rows: Sequence[Sequence[str]]) -> bytes:
    """An HTML page of an SVG figure and a table."""
    svg = figure.decode('utf-8')
    cells = '\n'.join(
        '<tr>' + ''.join(f'<td>{html.escape(c)}</td>' for c in row) + '</tr>'
        for row in rows
    )
    return _PAGE.format(figure=svg[svg.index('<svg') :], rows=cells).encode()


@reports_errors
def main() -> None:
    """Read the logs, draw them and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('runs', nargs='+', type=Path, metavar='RUN_DIR')
    parser.add_argument('-o', '--out', type=Path, required=True)
    parser.add_argument(
        '--smooth',
        type=float,
        default=0.6,
        metavar='WEIGHT',
        help='weight of earlier values in the thick curves, 0 to below 1 '
        '(default: %(default)s)',
    )
    parser.add_argument(
        '--skip',
        action='store_true',
        help='pass over runs without a logged step instead of ending with '
        'an error; without any run, no file is written',
    )
    add_debug_option(parser)
    args = parser.parse_args()
    if not 0 <= args.smooth < 1:
        parser.error(f'--smooth is {args.smooth}; expected 0 to below 1')
    kind = args.out.suffix.removeprefix('.')
    if kind not in ('html', 'svg', 'png'):
        parser.error(f'-o {args.out} ends in no .html, .svg or .png')
    runs = []
    for folder in args.runs:
        try:
            runs.append(read_run(folder))
        except ValueError:
            if not args.skip:
                raise
            print(f'{folder}: no curve, since no step of it was logged')
    if not runs:
        return
    rows = table(runs, args.smooth)
    figure = draw(runs, args.smooth, 'png' if kind == 'png' else 'svg')
    write_atomically(
        args.out, to_page(figure, rows) if kind == 'html' else figure
    )
    for name, files, steps, loss, bad in rows:
        print(
            f'{name}: {files} logs, {steps} steps, loss {loss} '
            f'(smoothed), {bad} bad lines'
        )


if __name__ == '__main__':
    sys.exit(main())
