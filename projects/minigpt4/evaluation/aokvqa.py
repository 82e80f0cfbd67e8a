# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The protocols ``aokvqa`` and ``aokvqa-direct``.

``aokvqa`` chooses one of four answers: by likelihood, or by comparing a
generated answer with the choices. ``aokvqa-direct`` compares a generated
answer with those of ten annotators.

Source: Schwenk et al. 2022, A-OKVQA, and allenai/aokvqa@42e8c44.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data_tools import question_files
from ..data_tools.import_items import Item, invalid_item
from ..datasets.json_stream import stream_json
from ..utils.errors import short_json
from .questions import (
    Question,
    QuestionProtocol,
    image_name,
    likeliest,
    question_id,
    required_text,
)
from .short_answers import direct_answer_accuracy, normalise_answer
from .vqa import ACCURACY, ACCURACY_RATIO, GREEDY_SHORT, SHORT_ANSWER

_DATA = (
    'A-OKVQA: aokvqa_v1p0_val.json of github.com/allenai/aokvqa, with the '
    'folder val2017 of COCO (cocodataset.org).'
)


def choose(answer: str, choices: Sequence[str]) -> int | None:
    """The choice that an answer names; None if it names none.

    It is the choice that is the same text; else both are normalised as
    answers of VQAv2, and it is the choice that the answer is equal to; else
    that which occurs first in it, of several at one place the longest; else,
    for an answer of one letter, the choice of that letter.
    """
    if answer.strip() in choices:
        return choices.index(answer.strip())
    found = normalise_answer(answer)
    normal = [normalise_answer(choice) for choice in choices]
    # an answer without words, such as "the", names none
    if found and found in normal:
        return normal.index(found)
    places = [
        (f' {found} '.find(f' {choice} '), -len(choice), i)
        for i, choice in enumerate(normal)
        if choice
    ]
    named = [place for place in places if place[0] >= 0]
    if named:
        return min(named)[2]
    letter = answer.strip().strip('().:').lower()
    if len(letter) == 1 and 'a' <= letter <= 'z':
        index = ord(letter) - ord('a')
        return index if index < len(choices) else None
    return None


def count_choice(
    row: Mapping[str, Any], scoring: Mapping[str, Any]
) -> dict[str, float]:
    """The counts of a question of ``aokvqa``.

    Args:
        row: ``choices``, ``truth`` with the ``index`` of the right choice,
            and ``log_likelihoods`` of the choices or a generated ``answer``.
        scoring: Not used.
    """
    choices = row['choices']
    if 'log_likelihoods' in row:
        chosen: int | None = choices.index(likeliest(row))
    else:
        chosen = choose(row['answer'], choices)
    # of two equal choices both are right
    right = choices[row['truth']['index']]
    return dict(
        questions=1,
        correct=chosen is not None and choices[chosen] == right,
        unknown=chosen is None,
    )


def count_direct_answer(
    row: Mapping[str, Any], scoring: Mapping[str, Any]
) -> dict[str, float]:
    """The counts of a question of ``aokvqa-direct``.

    Args:
        row: ``answer``, and ``truth`` with the ``answers`` of the annotators.
        scoring: ``match``, see
            :func:`~.short_answers.direct_answer_accuracy`.
    """
    accuracy = direct_answer_accuracy(
        row['answer'], row['truth']['answers'], scoring['match']
    )
    return dict(questions=1, correct=accuracy)


def read_aokvqa(path: Path, _: Path | None = None) -> Iterator[Item]:
    """Yield the records of an official file: a list of objects."""
    for entry in stream_json(path):
        yield invalid_item(path, entry) or Item(
            path, entry.number, entry.value
        )


def _choice_question(record: dict[str, Any]) -> Question:
    choices, index = record.get('choices'), record.get('correct_choice_idx')
    if (
        not isinstance(choices, list)
        or len(choices) < 2
        or not all(isinstance(c, str) and c.strip() for c in choices)
    ):
        raise ValueError(
            f'has the choices {choices!r}; expected a list of texts'
        )
    if isinstance(index, float) and index.is_integer():
        index = int(index)  # pandas writes 1.0 in a column with gaps
    if type(index) is not int or not 0 <= index < len(choices):
        raise ValueError(
            f'has the correct_choice_idx {index!r}; expected the index of '
            'one of its choices (the test split has none)'
        )
    return Question(
        question_id(record),
        image_name(record),
        required_text(record, 'question'),
        dict(index=index),
        tuple(choices),
    )


def _direct_question(record: dict[str, Any]) -> Question:
    difficult = record.get('difficult_direct_answer')
    if difficult not in (None, True, False):
        raise ValueError(
            f'has the difficult_direct_answer {short_json(difficult)}; '
            'expected true or false'
        )
    if difficult:
        raise ValueError('has a difficult_direct_answer, which is not scored')
    answers = record.get('direct_answers')
    if answers is None or answers == []:
        raise ValueError('has no direct_answers (the test split has none)')
    if (
        not isinstance(answers, list)
        or not all(isinstance(answer, str) for answer in answers)
        or not any(map(str.strip, answers))
    ):
        raise ValueError(
            f'has the direct_answers {short_json(answers)}; expected a list '
            'of texts'
        )
    return Question(
        question_id(record),
        image_name(record),
        required_text(record, 'question'),
        dict(answers=answers),
    )


AOKVQA = QuestionProtocol(
    name='aokvqa',
    data=_DATA,
    content=question_files.AOKVQA,
    prompt='{question} Choose one answer: {choices}.',
    generation=dict(
        do_sample=False, repetition_penalty=1.0, max_new_tokens=32
    ),
    items=read_aokvqa,
    question=_choice_question,
    counts=count_choice,
    ratios=dict(**ACCURACY_RATIO, unknown=('unknown', 'questions')),
    labels=(*ACCURACY, ('names no choice', 'unknown', '%')),
)
AOKVQA_DIRECT = QuestionProtocol(
    name='aokvqa-direct',
    data=_DATA,
    content=question_files.AOKVQA,
    prompt=SHORT_ANSWER,
    generation=GREEDY_SHORT,
    items=read_aokvqa,
    question=_direct_question,
    counts=count_direct_answer,
    ratios=ACCURACY_RATIO,
    labels=ACCURACY,
    scoring=dict(match='exact'),
)
