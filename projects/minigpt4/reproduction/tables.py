# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The tables of a reproduction, of scores by training and seed."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from .claims import CLAIMS, Scores, Verdict, compare_claim
from .plan import LENGTHS, SIZES
from .seeds import Mean, mean_over_seeds

# score: title of its column
COLUMNS = {
    'recall': 'shapes found',
    'chair_i': 'shapes invented',
    'describe_exact': 'descriptions right',
    'count': 'counts right',
    'color': 'colours right',
    'place': 'places right',
    'poem': 'poems right',
    'describe_failures': 'descriptions broken',
    'poem_failures': 'poems broken',
    'describe_words': 'words',
}
GOALS: tuple[tuple[str, str, Callable[[Mean], bool], str], ...] = (
    ('stage1', 'describe_failures', lambda m: m.value >= 0.2, '≥ 0.20'),
    ('stage1', 'poem_failures', lambda m: m.value >= 0.2, '≥ 0.20'),
    ('stage2', 'describe_failures', lambda m: m.value <= 0.02, '≤ 0.02'),
    ('stage2', 'poem_failures', lambda m: m.value <= 0.02, '≤ 0.02'),
    ('stage2', 'recall', lambda m: m.value >= 0.95, '≥ 0.95'),
    ('stage2', 'chair_i', lambda m: m.value <= 0.03, '≤ 0.03'),
    *(
        ('stage2', score, lambda m: m.value >= 0.8, '≥ 0.80')
        for score in ('describe_exact', 'count', 'color', 'place', 'poem')
    ),
)


class Table(NamedTuple):
    """A table of texts.

    Attributes:
        title: Its title.
        note: What its figures are.
        header: The column titles.
        rows: The rows, each with a text for each column.
    """

    title: str
    note: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def all_tables(
    scores: Scores, trainings: Sequence[str], seeds: Sequence[int]
) -> list[Table]:
    """The tables of a report; those without a row are absent.

    Args:
        scores: Scores by training and seed.
        trainings: The names of the trainings, in their order.
        seeds: The seeds.
    """
    verdicts = [
        verdict
        for claim in CLAIMS
        if (verdict := compare_claim(claim, scores, seeds)) is not None
    ]
    curves = (
        ('Length of stage 2', 'iterations', [*LENGTHS, 400]),
        ('Descriptions in stage 2', 'descriptions', list(SIZES)),
    )
    tables = [
        _claims(verdicts),
        _goals(scores, seeds),
        _means('Scores', scores, trainings, seeds),
    ]
    for title, unit, numbers in curves:
        names = {f'stage2_{n}_{unit}': str(n) for n in sorted(numbers)}
        names = {
            'stage2' if label == '400' else name: label
            for name, label in names.items()
        }
        if unit == 'descriptions':
            names['stage2'] = 'all'
        table = _means(title, scores, list(names), seeds, names)
        if len(table.rows) > 1:
            tables.append(table)
    tables.append(_variance(scores, trainings, seeds))
    return [table for table in tables if table.rows]


def show(mean: Mean) -> str:
    """A mean with its interval, such as ``0.91 (0.88 to 0.94)``."""
    if mean.low is None or mean.high is None:
        return _number(mean.value)
    return (
        f'{_number(mean.value)} ({_number(mean.low)} to {_number(mean.high)})'
    )


def markdown(tables: Sequence[Table]) -> Iterator[str]:
    """The lines of the tables in Markdown."""
    for table in tables:
        yield from (f'## {table.title}', '', table.note, '')
        yield f'| {" | ".join(table.header)} |'
        yield '|' + '---|' * len(table.header)
        for row in table.rows:
            yield f'| {" | ".join(row)} |'
        yield ''


def _number(value: float) -> str:
    return f'{value:.1f}' if abs(value) >= 5 else f'{value:.3f}'


def _values(
    scores: Scores, training: str, score: str, seeds: Sequence[int]
) -> list[float]:
    return [
        scores[training, seed][score]
        for seed in seeds
        if (training, seed) in scores
    ]


def _claims(verdicts: Sequence[Verdict]) -> Table:
    rows = [
        (
            v.claim.text,
            f'{v.claim.paper} ({v.claim.source})',
            v.claim.score,
            f'{_number(v.before.value)} to {_number(v.after.value)}',
            show(v.difference),
            v.text,
        )
        for v in verdicts
    ]
    return Table(
        'Claims of the paper',
        'The difference is the mean over the seeds with its 95 % interval; '
        '"not decided": the interval allows both, or there is one seed. Only '
        'directions can be compared.',
        ('claim', 'paper', 'score', 'here', 'difference', 'verdict'),
        rows,
    )


def _goals(scores: Scores, seeds: Sequence[int]) -> Table:
    rows = []
    for training, score, is_met, goal in GOALS:
        if values := _values(scores, training, score, seeds):
            mean = mean_over_seeds(values)
            met = 'met' if is_met(mean) else 'missed'
            rows.append((training, COLUMNS[score], show(mean), goal, met))
    return Table(
        'Goals',
        'Means over the seeds.',
        ('training', 'score', 'mean', 'goal', 'result'),
        rows,
    )


def _means(
    title: str,
    scores: Scores,
    trainings: Sequence[str],
    seeds: Sequence[int],
    labels: dict[str, str] | None = None,
) -> Table:
    rows = []
    for training in trainings:
        values = [_values(scores, training, key, seeds) for key in COLUMNS]
        if values[0]:
            label = (labels or {}).get(training, training)
            means = (_number(mean_over_seeds(v).value) for v in values)
            rows.append((label, str(len(values[0])), *means))
    return Table(
        title,
        'Means over the seeds, on held-out scenes.',
        ('training', 'seeds', *COLUMNS.values()),
        rows,
    )


def _variance(
    scores: Scores, trainings: Sequence[str], seeds: Sequence[int]
) -> Table:
    rows = []
    for training in trainings:
        for key, title in COLUMNS.items():
            values = _values(scores, training, key, seeds)
            if len(values) > 1:
                mean = mean_over_seeds(values)
                each = ', '.join(_number(value) for value in values)
                deviation = _number(mean.deviation or 0.0)
                rows.append((training, title, each, show(mean), deviation))
    return Table(
        'Variance over the seeds',
        'The value of each seed, mean with its 95 % interval (Student), and '
        'standard deviation.',
        ('training', 'score', 'each seed', 'mean', 'deviation'),
        rows,
    )
