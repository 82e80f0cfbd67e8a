# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The protocol ``pope``: is an object in the image? Yes or no.

Source: Li et al. 2023, Evaluating Object Hallucination in Large
Vision-Language Models (POPE, arXiv 2305.10355), and RUCAIBox/POPE.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..data_tools import question_files
from ..data_tools.import_items import Item, invalid_item
from ..datasets.json_stream import stream_json
from .questions import (
    Question,
    QuestionProtocol,
    image_name,
    likeliest,
    question_id,
    required_text,
)

_FIELDS = ('question_id', 'image', 'text', 'label')
_NEGATIONS = frozenset(('No', 'no', 'not'))
PARSERS = ('official', 'first-word')
GENERATION = dict(do_sample=False, repetition_penalty=1.0, max_new_tokens=64)


def parse_answer(text: str, parser: str = 'official') -> str:
    """The decision in an answer.

    Args:
        text: The answer.
        parser: ``'official'``: of the first sentence, ``'no'`` if it has the
            word "No", "no" or "not", else ``'yes'``, as POPE's
            ``evaluate.py`` decides; ``'first-word'``: the first word, if it
            is "yes" or "no" in any case, else ``'unknown'``.

    Raises:
        ValueError: There is no such parser.
    """
    if parser == 'official':
        sentence = text.partition('.')[0].replace(',', '')
        return 'no' if _NEGATIONS & set(sentence.split(' ')) else 'yes'
    if parser == 'first-word':
        first = (text.split() or [''])[0].strip('.,:;!?"\'').lower()
        return first if first in ('yes', 'no') else 'unknown'
    raise ValueError(
        f'parser is {parser!r}; expected one of {", ".join(PARSERS)}.'
    )


def count_yes_no(
    row: Mapping[str, Any], scoring: Mapping[str, Any]
) -> dict[str, float]:
    """The counts of a question of ``pope``; "yes" is the positive class.

    An unknown decision is a wrong one, and counts as "no" where "yes" is
    true.

    Args:
        row: ``truth`` with the ``label`` ``'yes'`` or ``'no'``, and a
            generated ``answer``, or ``choices`` and their
            ``log_likelihoods``.
        scoring: ``parser``, see :func:`parse_answer`.
    """
    if 'log_likelihoods' in row:
        found = likeliest(row)
    else:
        found = parse_answer(row['answer'], scoring['parser'])
    label = row['truth']['label']
    yes, true = found == 'yes', label == 'yes'
    return dict(
        questions=1,
        correct=found == label,
        yes=yes,
        unknown=found == 'unknown',
        true=true,
        true_yes=yes and true,
        twice_true_yes=2 * (yes and true),
        yes_and_true=yes + true,
    )


def read_pope(path: Path, _: Path | None = None) -> Iterator[Item]:
    """Yield the records of an official file: one in each line."""
    single: dict[str, Any] = {}
    for entry in stream_json(path):
        if entry.key in _FIELDS and not entry.in_list:
            single[str(entry.key)] = entry.value  # of a file of one line
            continue
        yield invalid_item(path, entry) or Item(
            path, entry.number, entry.value, unit='line'
        )
    if single:
        yield Item(path, 1, single, unit='line')


def _question(record: dict[str, Any]) -> Question:
    label = record.get('label')
    if label not in ('yes', 'no'):
        raise ValueError(f'has the label {label!r}; expected "yes" or "no"')
    return Question(
        question_id(record),
        image_name(record),
        required_text(record, 'text', 'question'),
        dict(label=label),
        ('yes', 'no'),
    )


POPE = QuestionProtocol(
    name='pope',
    data='POPE: coco_pope_random.json, coco_pope_popular.json and '
    'coco_pope_adversarial.json of github.com/RUCAIBox/POPE '
    '(output/coco), with the folder val2014 of COCO (cocodataset.org).',
    content=question_files.POPE,
    prompt='{question}',
    generation=GENERATION,
    items=read_pope,
    question=_question,
    counts=count_yes_no,
    ratios=dict(
        accuracy=('correct', 'questions'),
        precision=('true_yes', 'yes'),
        recall=('true_yes', 'true'),
        f1=('twice_true_yes', 'yes_and_true'),
        yes_share=('yes', 'questions'),
        unknown=('unknown', 'questions'),
    ),
    labels=(
        ('accuracy', 'accuracy', '%'),
        ('precision', 'precision', '%'),
        ('recall', 'recall', '%'),
        ('F1', 'f1', '%'),
        ('answered yes', 'yes_share', '%'),
        ('neither yes nor no', 'unknown', '%'),
    ),
    scoring=dict(parser='official'),
)
