# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Read VQAv2, OK-VQA, A-OKVQA and GQA: questions with short answers.

Source: the files of visualqa.org, okvqa.allenai.org, allenai/aokvqa and the
GQA page of Stanford.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..datasets.json_stream import stream_json
from ..datasets.json_values import DuplicateKey, InvalidJson
from .import_items import Item, ReadOptions, invalid_item

# of GQA: the program of a question, and its relations to others
_GQA_PROGRAMS = (
    *('semantic', 'semanticStr', 'annotations', 'entailed', 'equivalent'),
    *('groups', 'types'),
)


def vqa_files(path: Path) -> list[Path]:
    """The files of annotations in a folder, or of a file.

    Of a file of questions these are the annotations next to it.

    Raises:
        ValueError: There are none next to a file of questions.
    """
    if path.is_file() and '_questions.' not in path.name:
        return [path]
    if path.is_dir():
        return sorted(path.glob('*mscoco_*_annotations.json*'))
    split = path.name.partition('mscoco_')[2].partition('_questions')[0]
    found = [
        file
        for file in vqa_files(path.parent)
        if split and f'_{split}_' in file.name
    ]
    if not found:
        raise ValueError(
            f'{path} contains questions without answers; give the file of '
            'the annotations, with --questions for this one.'
        )
    return found


def questions_of(annotations: Path) -> Path:
    """The file of the questions next to a file of annotations.

    Raises:
        ValueError: There is none.
    """
    middle = annotations.name.partition('mscoco_')[2]
    split = middle.partition('_annotations')[0]
    found = [
        path
        for path in sorted(annotations.parent.glob('*_questions.json*'))
        if split and f'_{split}_' in path.name
    ]
    # VQAv2's names begin with v2_, those of OK-VQA do not
    is_v2 = annotations.name.startswith('v2_')
    found = [p for p in found if p.name.startswith('v2_') == is_v2] or found
    if len(found) != 1:
        raise ValueError(
            f'{annotations} contains answers, and next to it are '
            f'{len(found)} files of their questions; name the file with '
            '--questions FILE ("minigpt4 data import") or --question-texts '
            'FILE ("minigpt4 eval").'
        )
    return found[0]


def read_vqa(path: Path, options: ReadOptions) -> Iterator[Item]:
    """Read VQAv2 and OK-VQA: a file of answers and one of questions.

    The answer is ``multiple_choice_answer``, or the most frequent of the ten
    answers, which remain in the record as ``answers``.

    Raises:
        ValueError: The file of the questions is missing.
    """
    for file in vqa_files(path):
        questions: dict[Any, Any] = {}
        folder = ''
        source = options.questions or questions_of(file)
        for entry in stream_json(source):
            if entry.key == 'data_subtype':
                folder = str(entry.value)
            if isinstance(entry.value, InvalidJson):
                yield Item(source, entry.number, None, entry.value.reason)
            elif entry.key == 'questions' and isinstance(entry.value, dict):
                value = entry.value
                key = value.get('question_id')
                if isinstance(key, (int, str)):
                    found = (value.get('question'), value.get('image_id'))
                    if questions.setdefault(key, found) != found:
                        questions[key] = None  # two questions have this id
        for entry in stream_json(file):
            if entry.key == 'data_subtype':
                folder = str(entry.value)
            if entry.key not in (None, 'annotations'):
                continue
            if invalid := invalid_item(file, entry):
                yield invalid
            elif entry.in_list:
                yield _vqa_item(
                    file, entry.number, entry.value, questions, folder
                )


def _vqa_item(
    file: Path,
    number: int,
    answer: dict,
    questions: dict[Any, Any],
    folder: str,
) -> Item:
    """The item of an answer; ``questions`` has question and image by id."""
    if isinstance(answer, DuplicateKey):
        return Item(file, number, answer)
    key = answer.get('question_id')
    if not isinstance(key, (int, str)) or key not in questions:
        return Item(
            file,
            number,
            None,
            f'has the question_id {key!r}, which the file of the questions '
            'lacks',
        )
    if questions[key] is None:
        return Item(
            file,
            number,
            None,
            f'has the question_id {key!r}, which the file of the questions '
            'gives to several questions or images; expected one',
        )
    question, image_id = questions[key]
    other = answer.get('image_id', image_id)
    if str(other) != str(image_id):
        return Item(
            file,
            number,
            None,
            f'has the image_id {other!r}, and its question {key!r} has the '
            f'image_id {image_id!r}; expected the same',
        )
    if problem := _question_problem(question):
        return Item(file, number, None, problem)
    answers = _answers(answer.get('answers'))
    chosen = answer.get('multiple_choice_answer') or _most_frequent(answers)
    if chosen is None:
        return Item(file, number, None, 'has no answer')
    record = dict(id=key, image_id=image_id, question=question, answer=chosen)
    if folder:
        record['split'] = folder
    if answers:
        record['answers'] = answers
    return Item(file, number, record)


def _question_problem(question: Any) -> str:
    """Why a short answer has no use: without a question it is a caption."""
    if isinstance(question, str) and question.strip():
        return ''
    return f'has the question {question!r}; expected a text'


def _answers(values: Any) -> list[str]:
    if not isinstance(values, list):
        return []
    texts = [v.get('answer') if isinstance(v, dict) else v for v in values]
    return [text for text in texts if isinstance(text, str)]


def _most_frequent(answers: list[str]) -> str | None:
    """The most frequent answer, of equally frequent ones the first."""
    counts = Counter(answers)
    return max(answers, key=lambda text: counts[text], default=None)


def read_aokvqa(path: Path, options: ReadOptions) -> Iterator[Item]:
    """Read A-OKVQA: the right choice is the answer.

    ``choices``, ``direct_answers`` and ``rationales`` remain in the record.
    """
    for entry in stream_json(path):
        if invalid := invalid_item(path, entry):
            yield invalid
            continue
        record = entry.value
        if isinstance(record, DuplicateKey):
            yield Item(path, entry.number, record)
            continue
        choices = record.get('choices')
        index = record.get('correct_choice_idx')
        problem = _question_problem(record.get('question'))
        chosen = None
        if index is None:
            chosen = _most_frequent(_answers(record.get('direct_answers')))
        elif (
            isinstance(choices, list)
            and type(index) is int
            and 0 <= index < len(choices)
        ):
            chosen = choices[index]
        elif not problem:
            count = len(choices) if isinstance(choices, list) else 'no'
            problem = (
                f'has the correct_choice_idx {index!r} and {count} choices; '
                'expected the index of a choice, from 0'
            )
        if problem:
            yield Item(path, entry.number, None, problem)
            continue
        if chosen is None:
            reason = 'has no answer (test questions of A-OKVQA have none)'
            yield Item(path, entry.number, None, reason)
            continue
        record = {**record, 'answer': chosen}
        record.setdefault('id', record.get('question_id'))
        yield Item(path, entry.number, record)


def read_gqa(path: Path, options: ReadOptions) -> Iterator[Item]:
    """Read GQA: questions with short answers.

    The official file is an object of questions by id. The list of LAVIS and
    MMPretrain has ``question_id`` and ``image``.

    ``fullAnswer`` remains in the record; the programs do not.
    """
    for entry in stream_json(path):
        if invalid := invalid_item(path, entry):
            yield invalid
            continue
        value = entry.value
        if isinstance(value, DuplicateKey):
            yield Item(path, entry.number, value)
            continue
        if 'answer' not in value:
            reason = 'has no answer (test questions of GQA have none)'
            yield Item(path, entry.number, None, reason)
            continue
        if problem := _question_problem(value.get('question')):
            problem = f'({entry.key}) {problem}'
            yield Item(path, entry.number, None, problem)
            continue
        record = {k: v for k, v in value.items() if k not in _GQA_PROGRAMS}
        if entry.key is not None:  # the official file; others have a list
            record['id'] = entry.key
        else:
            record.setdefault('id', record.get('question_id'))
        if 'imageId' in record:
            record['image'] = record.pop('imageId')
        yield Item(path, entry.number, record)
