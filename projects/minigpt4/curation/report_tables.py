# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The tables of the report of a curation, and the report in the terminal."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from ..utils.errors import printable
from .selection import REASONS, Selection
from .statistics import Lengths, Numbers

Row = Sequence[str]
# images of the paper's set by step: sampled, and kept after the manual
# verification (section 3.2); it states no number in between
PAPER_SAMPLED, PAPER_KEPT = 5000, 3500
_COSTS = ('cost_usd', 'prompt_tokens', 'completion_tokens', 'seconds')


def funnel_rows(numbers: Numbers, selection: Selection) -> list[Row]:
    """Return step, images, share of all images, and the paper's number."""
    total = numbers.num_images
    rows: list[Row] = [
        ('images', f'{total:,}', _share(total, total), f'{PAPER_SAMPLED:,}')
    ]
    for step in numbers.steps:
        rows.append(
            (
                f'after {step.name}',
                f'{step.ok:,}',
                _share(step.ok, total),
                'not stated',
            )
        )
    exported = len(selection.rows)
    share = 100 * PAPER_KEPT // PAPER_SAMPLED
    rows.append(
        (
            'to export, after review'
            if numbers.reviewing.images
            else 'to export, not reviewed',
            f'{exported:,}',
            _share(exported, total),
            f'about {PAPER_KEPT:,} ({share} %)',
        )
    )
    return rows


def failure_rows(numbers: Numbers) -> list[Row]:
    """Return step, reason and number of images."""
    return [
        (step, reason.name, f'{reason.number:,}')
        for step, reason in numbers.failures
    ]


def repair_rows(numbers: Numbers) -> list[Row]:
    """Return what the repair did."""
    if not numbers.repaired:
        return []
    return [
        ('texts', f'{numbers.repaired:,}'),
        (
            'changed',
            f'{numbers.changed:,} '
            f'({_share(numbers.changed, numbers.repaired)})',
        ),
    ]


def length_rows(numbers: Numbers) -> list[Row]:
    """Return the lengths before the repair and after the last step."""
    rows: list[Row] = []
    for name, found in (
        ('drafts', numbers.draft_lengths),
        ('after the last step', numbers.final_lengths),
    ):
        if found is not None:
            rows.append((name, *_length_cells(found)))
    return rows


def cost_rows(numbers: Numbers) -> list[Row]:
    """Return USD, tokens and seconds by step."""
    rows: list[Row] = []
    for step, sums in numbers.costs.items():
        usd, prompt, answer, seconds = (sums.get(name) for name in _COSTS)
        rows.append(
            (
                step,
                '' if usd is None else f'{usd:.4f}',
                '' if prompt is None else f'{prompt:,.0f}',
                '' if answer is None else f'{answer:,.0f}',
                '' if seconds is None else f'{seconds:,.1f}',
            )
        )
    return rows


def review_rows(numbers: Numbers, selection: Selection) -> list[Row]:
    """Return the numbers of the review."""
    reviewing = numbers.reviewing
    if not reviewing.images:
        return []
    return [
        ('images with a review', f'{reviewing.images:,}'),
        *(
            (f'reviews: {decision}', f'{count:,}')
            for decision, count in reviewing.decisions.items()
        ),
        *(
            (f'reviews of {reviewer}', f'{count:,}')
            for reviewer, count in reviewing.reviewers.items()
        ),
        ('images with several reviews', f'{reviewing.twice:,}'),
        (
            'accepted by one reviewer, rejected by another',
            f'{reviewing.disagreements:,}',
        ),
        *(
            (
                f"Cohen's kappa of {' and '.join(pair.reviewers)}",
                'not defined'
                if pair.kappa is None
                else f'{pair.kappa:.2f} ({pair.both:,} texts)',
            )
            for pair in reviewing.agreements
        ),
        ('accepted with different texts', f'{selection.texts_differ:,}'),
        (
            'reviews of texts that are no longer current',
            f'{reviewing.outdated:,}',
        ),
    ]


def omitted_rows(selection: Selection) -> list[Row]:
    """Return why images are not exported, and how many."""
    return [
        (REASONS[reason], f'{count:,}')
        for reason, count in selection.omitted.items()
    ]


def print_report(
    console: Console, numbers: Numbers, selection: Selection
) -> None:
    """Print the tables that have rows."""
    for title, head, rows in (
        (
            'Funnel',
            ('step', 'images', 'share', 'paper'),
            funnel_rows(numbers, selection),
        ),
        ('Not exported', ('reason', 'images'), omitted_rows(selection)),
        (
            'Dropped',
            ('rule', 'images'),
            [(r.name, f'{r.number:,}') for r in numbers.drops],
        ),
        ('Failed', ('step', 'reason', 'images'), failure_rows(numbers)),
        (
            'Flags',
            ('reason', 'images'),
            [(r.name, f'{r.number:,}') for r in numbers.flags],
        ),
        ('Repair', ('', ''), repair_rows(numbers)),
        (
            'Words',
            ('texts', 'number', 'shortest', 'median', 'mean', 'longest'),
            length_rows(numbers),
        ),
        (
            'Cost',
            ('step', 'USD', 'prompt tokens', 'answer tokens', 'seconds'),
            cost_rows(numbers),
        ),
        ('Review', ('', ''), review_rows(numbers, selection)),
    ):
        if rows:
            _print_table(console, title, head, rows)


def _print_table(
    console: Console, title: str, head: Sequence[str], rows: Sequence[Row]
) -> None:
    table = Table(
        title=title,
        title_justify='left',
        title_style='bold',
        box=None,
        pad_edge=False,
        show_header=any(head),
    )
    for name in head:
        number = name not in ('step', 'reason', 'rule', 'texts', '')
        table.add_column(name, justify='right' if number else 'left')
    for row in rows:
        table.add_row(*map(printable, row))
    console.print(table, markup=False)
    console.print()


def _length_cells(found: Lengths) -> list[str]:
    return [
        f'{found.texts:,}',
        f'{found.minimum:,}',
        f'{found.median:,.0f}',
        f'{found.mean:,.1f}',
        f'{found.maximum:,}',
    ]


def _share(part: int, total: int) -> str:
    return f'{100 * part / total:.1f} %' if total else ''
