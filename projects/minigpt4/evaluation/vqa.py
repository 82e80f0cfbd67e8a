# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The protocols ``vqav2``, ``okvqa`` and ``gqa``: short answers.

Source: Goyal et al. 2017 (VQAv2), Marino et al. 2019 (OK-VQA), Hudson and
Manning 2019 (GQA).
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..data_tools import question_files
from ..data_tools.import_items import Item, ReadOptions
from ..data_tools.import_questions import read_gqa, read_vqa
from .questions import (
    Question,
    QuestionProtocol,
    image_name,
    question_id,
    required_text,
)
from .short_answers import MATCHES, matches, vqa_accuracy

SHORT_ANSWER = '{question} Answer the question using a single word or phrase.'
GREEDY_SHORT = dict(do_sample=False, repetition_penalty=1.0, max_new_tokens=16)
ACCURACY = (('accuracy', 'accuracy', '%'),)
ACCURACY_RATIO = dict(accuracy=('correct', 'questions'))


def count_vqa(
    row: Mapping[str, Any], scoring: Mapping[str, Any]
) -> dict[str, float]:
    """The counts of a question of ``vqav2`` and ``okvqa``.

    Args:
        row: ``answer``, and ``truth`` with the ``answers`` of the annotators.
        scoring: ``match`` and ``normalise``, see
            :func:`~.short_answers.vqa_accuracy`.
    """
    accuracy = vqa_accuracy(
        row['answer'],
        row['truth']['answers'],
        scoring['match'],
        scoring.get('normalise', 'always'),
    )
    return dict(questions=1, correct=accuracy)


def count_gqa(
    row: Mapping[str, Any], scoring: Mapping[str, Any]
) -> dict[str, float]:
    """The counts of a question of ``gqa``; ``truth`` has one ``answer``."""
    correct = matches(row['answer'], row['truth']['answer'], scoring['match'])
    return dict(questions=1, correct=correct)


def _read_vqa(path: Path, questions: Path | None) -> Iterator[Item]:
    return read_vqa(path, ReadOptions(questions=questions))


def _read_gqa(path: Path, _: Path | None = None) -> Iterator[Item]:
    return read_gqa(path, ReadOptions())


def _vqa_question(record: dict[str, Any]) -> Question:
    answers = record.get('answers')
    if not answers or not any(map(str.strip, answers)):
        raise ValueError('has no answers of annotators')
    if len(answers) <= MATCHES:
        raise ValueError(
            f'has {len(answers)} answers of annotators, so that no answer '
            f'could be fully right; expected ten, {MATCHES + 1} at least'
        )
    return Question(
        question_id(record),
        image_name(record),
        required_text(record, 'question'),
        dict(answers=answers),
    )


def _gqa_question(record: dict[str, Any]) -> Question:
    return Question(
        question_id(record),
        image_name(record),
        required_text(record, 'question'),
        dict(answer=required_text(record, 'answer')),
    )


def _vqa(name: str, data: str) -> QuestionProtocol:
    return QuestionProtocol(
        name=name,
        data=data,
        content=question_files.VQA_ANNOTATIONS,
        prompt=SHORT_ANSWER,
        generation=GREEDY_SHORT,
        items=_read_vqa,
        question=_vqa_question,
        counts=count_vqa,
        ratios=ACCURACY_RATIO,
        labels=ACCURACY,
        scoring=dict(match='exact', normalise='always'),
    )


VQAV2 = _vqa(
    'vqav2',
    'VQAv2: v2_mscoco_val2014_annotations.json and '
    'v2_OpenEnded_mscoco_val2014_questions.json of '
    'visualqa.org/download.html, with the folder val2014 of COCO '
    '(cocodataset.org).',
)
OKVQA = _vqa(
    'okvqa',
    'OK-VQA: mscoco_val2014_annotations.json and '
    'OpenEnded_mscoco_val2014_questions.json of '
    'okvqa.allenai.org/download.html, with the folder val2014 of COCO '
    '(cocodataset.org).',
)
GQA = QuestionProtocol(
    name='gqa',
    data='GQA: testdev_balanced_questions.json and the folder of images of '
    'cs.stanford.edu/people/dorarad/gqa/download.html.',
    content=question_files.GQA,
    prompt=SHORT_ANSWER,
    generation=GREEDY_SHORT,
    items=_read_gqa,
    question=_gqa_question,
    counts=count_gqa,
    ratios=ACCURACY_RATIO,
    labels=ACCURACY,
    scoring=dict(match='exact'),
)
