# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Draw the newest figure of each row, and print them as a Markdown table.

python benchmarks/plot.py [--results FOLDER] [--out FILE]
"""

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use('Agg')
from matplotlib import pyplot as plt  # noqa: E402

HERE = Path(__file__).parent


def newest(folder: Path) -> list[dict]:
    """Find the last row of each name that has a ratio, sorted by name.

    Without those of a curve (:func:`scale`). Each row has the ``date`` and
    ``machine`` of its run.
    """
    rows: dict[str, dict] = {}
    for file in sorted(folder.glob('*.json')):
        for run in json.loads(file.read_text()):
            for row in run['rows']:
                curve = row['name'].startswith('batch-scale ')
                if row['ratio'] and row['guard_ok'] and not curve:
                    rows[row['name']] = dict(
                        row,
                        date=run['time'][:10],
                        machine=run['machine'],
                        # the word in results of version 0.1
                        peer_name=row.get('peer_name', '').replace(
                            're-stated', 'reimplemented'
                        ),
                    )
    return [rows[name] for name in sorted(rows)]


def scale(folder: Path) -> list[dict]:
    """The rows of the last successful run of batch-scale."""
    found: list[dict] = []
    for file in sorted(folder.glob('*.json')):
        for run in json.loads(file.read_text()):
            rows = [
                row for row in run['rows'] if 'work' in row and row['guard_ok']
            ]
            found = rows or found
    return found


def table(rows: list[dict]) -> str:
    """Format rows as a Markdown table."""
    lines = [
        '| Row | Ours | Peer | Ratio | Goal | Guard | Date |',
        '|---|---|---|---|---|---|---|',
    ]
    for row in rows:
        goals = [
            text.format(row[key])
            for key, text in (
                ('goal', '{:g}x'),
                ('at_most', 'at most {:g}'),
                ('at_least', 'at least {:g}'),
            )
            if row.get(key)
        ]
        goal = ', '.join(goals) or '-'
        met = '' if row['met'] else ' (missed)'
        lines.append(
            f'| {row["name"]} | {row["ours"]:.4g} {row["unit"]} | '
            f'{row["peer"]:.4g}, {row.get("peer_name", "")} | '
            f'{row["ratio"]:.3g}x | {goal}{met} | {row["guard"]} | '
            f'{row["date"]} |'
        )
    return '\n'.join(lines)


def draw(rows: list[dict], out: Path) -> None:
    """Draw bars of the ratios, each with a line at its goal.

    Raises:
        ValueError: There is no row.
    """
    if not rows:
        raise ValueError(
            'no result with a ratio was found; run benchmarks/run.py first.'
        )
    figure, axes = plt.subplots(
        figsize=(9, 0.42 * len(rows) + 1.2), layout='constrained'
    )
    positions = range(len(rows))
    met = ['#2a7f62' if row['met'] else '#c77d3a' for row in rows]
    axes.barh(positions, [row['ratio'] for row in rows], color=met, height=0.6)
    for position, row in zip(positions, rows):
        if row['goal']:
            axes.vlines(
                row['goal'], position - 0.42, position + 0.42, 'black', lw=2
            )
        axes.annotate(
            f'{row["ratio"]:.3g}x',
            (max(row['ratio'], row['goal'] or 0), position),
            xytext=(4, 0),
            textcoords='offset points',
            va='center',
            fontsize=8,
        )
    axes.axvline(1, color='grey', lw=0.8)
    axes.set_xscale('log')
    axes.margins(x=0.12)
    axes.set_yticks(
        positions,
        [f'{row["name"]}\n{row.get("peer_name", "")}' for row in rows],
        fontsize=7,
    )
    axes.invert_yaxis()
    axes.set_xlabel(
        'times better than the peer (line: the goal; orange: not met)'
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110)


def draw_scale(rows: list[dict], out: Path) -> None:
    """Draw tokens per second over the number of concurrent requests.

    Args:
        rows: What :func:`scale` found.
        out: The image file.
    """
    works = list(dict.fromkeys(row['work'] for row in rows))
    figure, all_axes = plt.subplots(
        1, len(works), figsize=(9, 3.6), layout='constrained', squeeze=False
    )
    for axes, work in zip(all_axes[0], works):
        curve = [row for row in rows if row['work'] == work]
        batches = [row['batch'] for row in curve]
        for side, color, label in (
            ('ours', '#2a7f62', 'ours'),
            ('peer', '#c77d3a', curve[0]['peer_name']),
        ):
            rates = [row[side] for row in curve]
            axes.plot(batches, rates, 'o-', color=color, label=label)
        if work == 'decode':
            least = [row['at_least'] for row in curve]
            axes.plot(batches, least, 'k:', lw=1, label='goal: at least')
        axes.set_xscale('log', base=2)
        axes.set_yscale('log', base=2)
        axes.yaxis.set_major_formatter('{x:g}')
        axes.set_xticks(batches, batches)
        axes.set_xlabel('concurrent requests')
        axes.set_ylabel('tokens per CPU second')
        axes.set_title(work)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--results', type=Path, default=HERE / 'results')
    parser.add_argument(
        '--out',
        type=Path,
        default=HERE.parent / 'docs' / 'images' / 'benchmarks.png',
    )
    options = parser.parse_args()
    rows = newest(options.results)
    draw(rows, options.out)
    if curves := scale(options.results):
        draw_scale(curves, options.out.with_name('batch_scale.png'))
    print(table(rows))
