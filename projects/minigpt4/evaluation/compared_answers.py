# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Samples of stored ``coverage``, ``failures`` and ``abilities``."""

from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath
from typing import Any

from ..utils.json_files import read_json_lines
from . import abilities, failures
from .compared_protocol import ComparedProtocol, Rows, Sample, StoredFile
from .image_sums import Ratios
from .judge import JUDGEMENTS_FILE, parse_yes_no, usable

_KINDS = (*failures.KINDS, 'any')


def _groups(rows: Rows, prompts: Iterable[str]) -> list[str]:
    """The groups of prompts that the rows have, in their order."""
    found = {row['group'] for row in rows}
    return [group for group in prompts if group in found]


def _yes_distance(one: Sample, two: Sample) -> float:
    return float(one.differs != two.differs)


def _coverage_sample(
    row: Mapping[str, Any],
    settings: Mapping[str, Any],
    scoring: Mapping[str, Any],
    _: Mapping[str, Any],
) -> Sample:
    decision = parse_yes_no(row['answer'], scoring['parser'])
    return Sample(
        key=row['key'],
        image=row['image_id'],
        file='',
        asked=[row['image_id'], row['reference']],
        counts=dict(judged=1, yes=decision == 'yes'),
        good=decision == 'yes',
        differs=decision == 'yes',
        prompt='',
        truth=row['reference'],
        text=row['caption'],
        note=f'the judge: {row["answer"]}',
    )


COVERAGE = ComparedProtocol(
    files=JUDGEMENTS_FILE,
    sample=_coverage_sample,
    scores=lambda rows: dict(coverage=('yes', 'judged')),
    labels=(('covered', 'coverage', '%'),),
    changed='captions of which only one covers the reference',
    distance=_yes_distance,
    unit='captions',
    good='covered',
    number=lambda summary: summary['judged'],
    row_key='key',
    scoring=lambda summary: dict(parser=summary['parser']),
)


def _failures_sample(
    row: Mapping[str, Any],
    settings: Mapping[str, Any],
    scoring: Mapping[str, Any],
    _: Mapping[str, Any],
) -> Sample:
    group, truth = row['group'], row.get('truth')
    found = failures.row_failures(row)
    counts: dict[str, float] = {
        f'{group} {kind}': kind in found for kind in failures.KINDS
    }
    counts[f'{group} any'] = bool(found)
    counts[f'{group} answers'] = 1
    counts[f'{group} with truth'] = bool(truth)
    return Sample(
        key=f'{row["image_id"]}, {group}',
        image=row['image_id'],
        file=PurePath(row['image']).name,
        asked=[row['image_id'], group, truth],
        counts=counts,
        good=not found,
        differs=set(found),
        prompt=row['prompt'],
        truth=', '.join(sorted(truth or ())),
        text=row['answer'],
        note=' '.join(f'{kind}: {why}' for kind, why in found.items())
        or 'no failure',
    )


def _failures_scores(rows: Rows) -> Ratios:
    known = any(row.get('truth') for row in rows)
    return {
        f'{group} {kind}': (
            f'{group} {kind}',
            f'{group} {"with truth" if kind == "irrelevance" else "answers"}',
        )
        for group in _groups(rows, failures.PROMPTS)
        for kind in _KINDS
        if known or kind != 'irrelevance'
    }


FAILURES = ComparedProtocol(
    files='answers.jsonl',
    sample=_failures_sample,
    scores=_failures_scores,
    labels=tuple(
        (f'{group}, {kind}', f'{group} {kind}', '%')
        for group in failures.PROMPTS
        for kind in _KINDS
    ),
    changed='answers whose kinds of failure differ',
    distance=lambda one, two: len(one.differs ^ two.differs),
    unit='answers',
    good='without failure',
    row_key='number',
)


def _abilities_sample(
    row: Mapping[str, Any],
    settings: Mapping[str, Any],
    scoring: Mapping[str, Any],
    judgements: Mapping[str, Mapping[str, Any]],
) -> Sample | None:
    judgement = judgements.get(f'{row["number"]:06d}')
    if judgement is None:
        return None
    met = parse_yes_no(judgement['answer'], scoring['parser']) == 'yes'
    group, path = row['group'], PurePath(row['image'])
    return Sample(
        key=f'{group}, {path.name}',
        # each task has a folder of its own images
        image='/'.join(path.parts[-2:]),
        file=path.name,
        asked=[group, path.name],
        counts={
            f'{group} met': met,
            f'{group} judged': 1,
            'met': met,
            'judged': 1,
        },
        good=met,
        differs=met,
        prompt=row['prompt'],
        truth='',
        text=row['answer'],
        note=f'the judge: {judgement["answer"]}',
    )


def _abilities_scores(rows: Rows) -> Ratios:
    tasks = {
        task: (f'{task} met', f'{task} judged')
        for task in _groups(rows, abilities.PROMPTS)
    }
    return tasks | dict(all=('met', 'judged'))


def _read_judgements(path: Path) -> dict[str, Any]:
    """The judgement of each answer, by its key.

    Raises:
        ValueError: A line is damaged.
        OSError: The file cannot be read.
    """
    rows = [row for _, row in read_json_lines(path)]
    try:
        return {row['key']: row for row in usable(rows)}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f'{path} has a line that is no judgement; remove the file, and '
            'run the command of the folder again.'
        ) from error


ABILITIES = ComparedProtocol(
    files='answers.jsonl',
    sample=_abilities_sample,
    scores=_abilities_scores,
    labels=(
        *((f'{task}, met', task, '%') for task in abilities.PROMPTS),
        ('all tasks, met', 'all', '%'),
    ),
    changed='answers of which only one meets the request',
    distance=_yes_distance,
    unit='answers',
    good='request met',
    number=lambda summary: sum(
        task.get('judged', {}).get('total', 0)
        for task in summary['tasks'].values()
    ),
    stored=StoredFile(
        name=JUDGEMENTS_FILE,
        missing='the judgements that are compared; the command that made the '
        'folder adds them with the options of a judge, such as --judge-url '
        'and --judge-model',
        read=_read_judgements,
        without='without judgement',
    ),
    row_key='number',
    # the judge is no setting of the folder
    scoring=lambda summary: dict(
        parser=summary['parser'], judge=summary.get('judge', {}).get('model')
    ),
)
