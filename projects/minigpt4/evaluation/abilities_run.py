# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Run of ``minigpt4 eval abilities``."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..loading import quiet_logs
from ..utils.errors import printable
from ..utils.signals import raise_on_signals
from .abilities import (
    GENERATION,
    IMAGES,
    PUBLISHED,
    judge_questions,
    read_tasks,
    score_abilities,
)
from .generated_answers import (
    ANSWERS_FILE,
    answer_errors,
    generate_answers,
    model_settings,
    print_errors,
)
from .judge import (
    JUDGEMENTS_FILE,
    JudgeSettings,
    estimate_judgements,
    judge,
    judge_facts,
    missing_questions,
    unanswered,
)
from .result_folder import ResultFolder, format_score

_NOTE = 'what was answered is kept, and the same command continues'


def run_abilities(
    args: argparse.Namespace, judged_by: JudgeSettings | None
) -> int:
    """Answer the requests, perhaps judge them, and print the counts.

    Args:
        args: The options of ``minigpt4 eval abilities``.
        judged_by: The judge; None for people alone.

    Returns:
        0; 1 if a request could not be answered or judged.

    Raises:
        ValueError: A file, an option or the result folder is invalid.
        OSError: A file cannot be read or written.
        ModelFailureError: The model fails on every request.
        UserError: The judge fails on every request, or the next request
            might exceed ``max_cost``.
    """
    with raise_on_signals(_NOTE), quiet_logs(not args.quiet):
        asked = read_tasks(args.images)
        settings = model_settings(args, asked, GENERATION)
        with ResultFolder(
            args.out, 'abilities', settings, ANSWERS_FILE, args.overwrite
        ) as results:
            generate_answers(args, asked, results)
            judgements: list[dict[str, Any]] = []
            if judged_by is not None:
                with ResultFolder(
                    args.out,
                    'abilities',
                    settings,
                    JUDGEMENTS_FILE,
                    args.overwrite,
                ) as judged:
                    _check_judge(judged.rows, judged_by.model, args.out)
                    questions = judge_questions(results.rows)
                    if args.estimate:
                        missing = missing_questions(
                            questions, judged.rows, judged_by.model
                        )
                        print(estimate_judgements(judged_by, missing))
                        return 0
                    judge(judged_by, questions, judged, args.quiet)
                    judgements = judged.rows
            summary = abilities_summary(results.rows, judgements, args.parser)
            results.write_summary(summary)
        print_abilities(summary, args.out)
    return 1 if summary['errors'] else 0


def _check_judge(
    rows: Sequence[Mapping[str, Any]], model: str, folder: Path
) -> None:
    """Refuse judgements of another judge.

    The judge is no setting of the folder, so that answers can be judged
    later.
    """
    others = sorted({row['model'] for row in rows} - {model})
    if others:
        raise ValueError(
            f'{folder} has judgements of {printable(others[0])}; remove '
            f'{JUDGEMENTS_FILE}, or give another -o.'
        )


def abilities_summary(
    rows: Sequence[Mapping[str, Any]],
    judgements: Sequence[dict[str, Any]],
    parser: str,
) -> dict[str, Any]:
    """Counts of stored answers, with the published figures."""
    errors = answer_errors(rows) + [
        dict(number=row['number'], error=row['problem'])
        for row in unanswered(judgements)
    ]
    summary = dict(
        **score_abilities(rows, judgements, parser),
        parser=parser,
        published={
            task: dict(**found._asdict(), images=IMAGES)
            for task, found in PUBLISHED.items()
        },
        errors=errors,
    )
    if judgements:
        summary['judge'] = judge_facts(judgements)
    return summary


def print_abilities(summary: Mapping[str, Any], folder: Path) -> None:
    """Print the counts of each task next to the published ones."""
    print_errors(summary['errors'])
    name = printable(str(folder))
    print('abilities; 95 % intervals of Wilson')
    for task, found in summary['tasks'].items():
        text = f'{task:14}{found["answers"]:,} answers'
        if 'judged' in found:
            text += f', judge: {format_score(found["judged"], "%")} met'
        paper = PUBLISHED[task]
        print(
            f'{text}; published: BLIP-2 {paper.blip2}/{IMAGES}, MiniGPT-4 '
            f'{paper.minigpt4}/{IMAGES}'
        )
    print('not published: the images. People judged them in the paper.')
    if 'judge' in summary:
        facts = summary['judge']
        print(
            printable(
                f'judge: {facts["model"]} ({facts["last_date"]}), which sees '
                'no image: whether an answer fits it is not judged'
            )
        )
    print(
        f'results: {name}; to mark the answers: minigpt4 eval marks {name}',
        file=sys.stderr,
    )
