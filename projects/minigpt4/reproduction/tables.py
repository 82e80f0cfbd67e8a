# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The tables of a reproduction, of scores by training and seed."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from .claims import (
    CEILING,
    FLOOR,
    RESOLUTION,
    SAME,
    Scores,
    Verdict,
    compare_claim,
    score_of,
)
from .seeds import Mean, mean_over_seeds
from .setups import Setup


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
    setup: Setup, scores: Scores, seeds: Sequence[int]
) -> list[Table]:
    """The tables of a report; those without a row are absent.

    Args:
        setup: What was trained.
        scores: Scores by training and seed.
        seeds: The seeds.
    """
    verdicts = [
        verdict
        for claim in setup.claims
        if (verdict := compare_claim(claim, scores, seeds)) is not None
    ]
    names = {training.name: training.name for training in setup.trainings}
    tables = [
        _claims(setup, verdicts),
        _goals(setup, scores, seeds),
        _means('Scores', 'training', names, setup, scores, seeds),
    ]
    for curve in setup.curves:
        table = _means(*curve, setup, scores, seeds)
        if len(table.rows) > 1:
            tables.append(table)
    tables.append(_variance(setup, scores, seeds))
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
    values = (score_of(scores, training, seed, score) for seed in seeds)
    return [value for value in values if value is not None]


def _claims(setup: Setup, verdicts: Sequence[Verdict]) -> Table:
    rows = [
        (
            v.claim.text,
            f'{v.claim.paper} ({v.claim.source})',
            setup.columns[v.claim.score],
            f'{_number(v.before.value)} to {_number(v.after.value)}',
            show(v.difference),
            v.text,
        )
        for v in verdicts
    ]
    return Table(
        'Claims of the paper',
        'The difference is the mean over the seeds with its 95 % interval, at '
        f'least {RESOLUTION} to each side; "not decided": the interval allows '
        'both, or there is one seed. For "about the same" and "not better" '
        f'differences up to {SAME} count as none, and nothing is decided if '
        f'both means are below {FLOOR} (neither model can do the task) or '
        f'above {CEILING} (neither can be much better). '
        'Intervals are over training seeds only, with one data set and one '
        'LLM. Only directions can be compared.',
        ('claim', 'paper', 'score', 'here', 'difference', 'verdict'),
        rows,
    )


def _goals(setup: Setup, scores: Scores, seeds: Sequence[int]) -> Table:
    names = {training.name for training in setup.trainings}
    rows = []
    for goal in setup.goals:
        if goal.training not in names:
            continue
        mean, result = '', 'not measured'
        if values := _values(scores, goal.training, goal.score, seeds):
            found = mean_over_seeds(values)
            mean = show(found)
            result = 'met' if goal.is_met(found) else 'missed'
        elif any(
            goal.score in scores.get((goal.training, seed), {})
            for seed in seeds
        ):
            result = 'not defined'
        title = setup.columns[goal.score]
        rows.append((goal.training, title, mean, goal.text, result))
    return Table(
        'Goals',
        'Means over the seeds. The mean alone decides, whatever its interval. '
        '"Not measured": the training or its test failed, did not run or '
        'cannot be read; "not defined": no held-out image has what the score '
        'counts.',
        ('training', 'score', 'mean', 'goal', 'result'),
        rows,
    )


def _means(
    title: str,
    unit: str,
    labels: Mapping[str, str | None],
    setup: Setup,
    scores: Scores,
    seeds: Sequence[int],
) -> Table:
    """A row for each training that has a score, with its label."""
    rows = []
    for training, label in labels.items():
        values = [_values(scores, training, s, seeds) for s in setup.columns]
        if any(values):
            means = (
                _number(mean_over_seeds(v).value) if v else '' for v in values
            )
            rows.append(
                (label or training, str(max(map(len, values))), *means)
            )
    return Table(
        title,
        'Means over the seeds, on held-out images.',
        (unit, 'seeds', *setup.columns.values()),
        rows,
    )


def _variance(setup: Setup, scores: Scores, seeds: Sequence[int]) -> Table:
    rows = []
    for training in setup.trainings:
        for key, title in setup.columns.items():
            values = _values(scores, training.name, key, seeds)
            if len(values) > 1:
                mean = mean_over_seeds(values)
                each = ', '.join(_number(value) for value in values)
                deviation = _number(mean.deviation or 0.0)
                row = training.name, title, each, show(mean), deviation
                rows.append(row)
    return Table(
        'Variance over the seeds',
        'The value of each seed, mean with its 95 % interval (Student), and '
        'standard deviation.',
        ('training', 'score', 'each seed', 'mean', 'deviation'),
        rows,
    )
