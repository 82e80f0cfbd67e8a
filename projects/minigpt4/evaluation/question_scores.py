# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Scores of stored answers to questions."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..datasets.skip_summary import counted
from ..utils.errors import printable
from ..utils.regular_files import read_regular
from .questions import QuestionProtocol, QuestionSet
from .result_folder import format_score

_NAMED = 5  # errors of each kind on the terminal


def answers_file(part: tuple[int, int] | None) -> str:
    """Name of the file of the answers of a part, such as 2 of 4."""
    if part is None or part == (1, 1):
        return 'answers.jsonl'
    return f'answers-{part[0]}-of-{part[1]}.jsonl'


def read_answers(folder: Path) -> list[dict[str, Any]]:
    """Read the answers of all parts, in the order of the questions.

    The last line of a file may be cut, since its process may still write.

    Raises:
        ValueError: A file is damaged.
        OSError: A file cannot be read.
    """
    rows: dict[int, dict[str, Any]] = {}
    for path in sorted(folder.glob('answers*.jsonl')):
        lines = read_regular(path).split(b'\n')
        for number, line in enumerate(lines[:-1], 1):
            try:
                row = json.loads(line)
                key = row['number']
                if type(key) is not int:
                    raise TypeError('no number')
            except (
                ValueError,
                TypeError,
                KeyError,
                RecursionError,
            ) as error:
                raise ValueError(
                    f'{path}: line {number} is no answer; remove the file, '
                    'or give another folder.'
                ) from error
            rows.setdefault(key, row)
    return [rows[key] for key in sorted(rows)]


def question_summary(
    protocol: QuestionProtocol,
    rows: Sequence[Mapping[str, Any]],
    settings: Mapping[str, Any],
    scoring: Mapping[str, Any],
    resamples: int,
) -> dict[str, Any]:
    """Score stored answers.

    Args:
        protocol: The protocol.
        rows: All rows.
        settings: Those of the folder.
        scoring: The scoring options that are given; the others have their
            defaults.
        resamples: Resamples of the bootstrap.

    Returns:
        What ``summary.json`` stores besides the settings: ``answers`` and
        ``missing`` (counts), ``scoring``, ``errors``, and the scores.

    Raises:
        ValueError: No question has an answer.
    """
    options = {**protocol.scoring, **scoring}
    answered = [row for row in rows if 'error' not in row]
    errors = [
        {key: row[key] for key in ('id', 'file', 'error')}
        for row in rows
        if 'error' in row
    ]
    missing = settings['count'] - len(rows)
    if not answered:
        reason = f' ({errors[0]["error"]})' if errors else ''
        raise ValueError(f'none of the questions has an answer{reason}.')
    return dict(
        answers=len(answered),
        missing=missing,
        scoring=options,
        resamples=resamples,
        **protocol.score(answered, options, resamples),
        errors=errors,
    )


def print_question_scores(
    protocol: QuestionProtocol,
    summary: Mapping[str, Any],
    questions: QuestionSet | None = None,
    folder: Path | None = None,
) -> None:
    """Print what was skipped, and the scores."""
    errors = [f'{e["file"]}: {e["error"]}' for e in summary['errors']]
    kinds: list[tuple[str, Sequence[str]]] = [('failed', errors)]
    if questions is not None:
        kinds += [
            ('skipped', questions.skipped),
            ('skipped, without image', questions.without_image),
        ]
    for kind, messages in kinds:
        for message in messages[:_NAMED]:
            print(f'{kind}: {printable(message)}', file=sys.stderr)
        if len(messages) > _NAMED:
            more = len(messages) - _NAMED
            print(f'{kind}: {more:,} more', file=sys.stderr)
    options = ''.join(f', {k} {v}' for k, v in summary['scoring'].items())
    print(
        f'{protocol.name}: {summary["answers"]:,} answers about '
        f'{summary["images"]:,} images{options}; 95 % intervals over images'
    )
    for label, name, unit in protocol.labels:
        print(f'{label:22}{format_score(summary["scores"][name], unit)}')
    if summary['missing']:
        number = summary['missing']
        verb = 'has' if number == 1 else 'have'
        print(
            f'{counted(number, "question")} {verb} '
            f'no answer yet in {printable(str(folder))}, and these scores are '
            'not stored. The command that made the folder completes it, with '
            '--part that of each part',
            file=sys.stderr,
        )
    elif folder is not None:
        print(f'results: {printable(str(folder))}', file=sys.stderr)
