# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Read VQAv2, OK-VQA, A-OKVQA and GQA: questions with short answers.

Source: the files of visualqa.org, okvqa.allenai.org, allenai/aokvqa and the
GQA page of Stanford.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..datasets.image_folder import id_problem
from ..datasets.json_stream import stream_json
from ..datasets.json_values import DuplicateKey
from ..utils.errors import printable, short_json
from ..utils.ids import checked_id, id_key, id_key_or_none
from .import_items import Item, ReadOptions, invalid_item
from .vqa_table import VqaTable

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

    Both are joined by ``question_id`` (:mod:`minigpt4.utils.ids`). The answer
    is ``multiple_choice_answer``, or the most frequent of the ten answers,
    which remain in the record as ``answers``.

    Raises:
        ValueError: The file of the questions is missing, a file has another
            content, or no annotation has a question.
    """
    for file in vqa_files(path):
        source = options.questions or questions_of(file)
        annotations = VqaTable(file, 'annotations')
        questions = VqaTable(source, 'questions')
        yield from _join(annotations, questions)


def _join(annotations: VqaTable, questions: VqaTable) -> Iterator[Item]:
    """The items of the annotations."""
    by_id: dict[str, Any] = {}
    for entry in questions.entries():
        if invalid := invalid_item(questions.path, entry):
            yield invalid
            continue
        value = entry.value
        try:
            key = id_key(value.get('question_id'))
        except ValueError as error:
            reason = f'has a question_id that {error}'
            yield Item(questions.path, entry.number, None, reason)
            continue
        found = (value.get('question'), value.get('image_id'))
        if key in by_id and not _same_question(by_id[key], found):
            by_id[key] = None  # two questions have this id
        by_id.setdefault(key, found)
    number = joined = 0
    example = ''
    for entry in annotations.entries():
        number += 1
        if invalid := invalid_item(annotations.path, entry):
            yield invalid
            continue
        split = annotations.split or questions.split
        item = _vqa_item(
            annotations.path, entry.number, entry.value, by_id, split
        )
        key_ = id_key_or_none(entry.value.get('question_id'))
        joined += key_ in by_id
        example = example or key_ or ''
        yield item
    if number and by_id and example and not joined:
        raise ValueError(_no_question(annotations, questions, example, by_id))


def _no_question(
    annotations: VqaTable,
    questions: VqaTable,
    example: str,
    by_id: dict[str, Any],
) -> str:
    """No question of two complete files has an answer."""
    splits = ''
    if '' not in (annotations.split, questions.split) and (
        annotations.split != questions.split
    ):
        splits = (
            f' (data_subtype {printable(repr(annotations.split))} and '
            f'{printable(repr(questions.split))})'
        )
    return (
        f'{annotations.path} has no answer to a question of '
        f'{questions.path}{splits}: it has the question_id '
        f'{printable(example)[:40]}, the other file '
        f'{printable(next(iter(by_id)))[:40]}; expected two files of one '
        'split.'
    )


def _same_question(one: Any, other: tuple[Any, Any]) -> bool:
    """Whether two questions of one id have the same text and image."""
    if one is None or one[0] != other[0]:
        return False
    return id_key_or_none(one[1]) == id_key_or_none(other[1])


def _vqa_item(
    file: Path,
    number: int,
    answer: dict,
    questions: dict[str, Any],
    split: str,
) -> Item:
    """The item of an answer; ``questions`` has question and image by id."""
    if isinstance(answer, DuplicateKey):
        return Item(file, number, answer)
    try:
        record = _vqa_record(answer, questions)
    except ValueError as error:
        return Item(file, number, None, str(error))
    if split:
        record['split'] = split
    return Item(file, number, record)


def _vqa_record(answer: dict, questions: dict[str, Any]) -> dict[str, Any]:
    """The record of an answer.

    Raises:
        ValueError: It has no use; the message follows its place.
    """
    try:
        id_ = checked_id(answer.get('question_id'))
    except ValueError as error:
        raise ValueError(f'has a question_id that {error}') from None
    key = id_key(id_)
    if key not in questions:
        raise ValueError(
            f'has the question_id {id_!r}, which the file of the questions '
            'lacks'
        )
    if questions[key] is None:
        raise ValueError(
            f'has the question_id {id_!r}, which the file of the questions '
            'gives to several questions or images; expected one'
        )
    question, image_id = questions[key]
    other = answer.get('image_id', image_id)
    if other != image_id and (
        id_key_or_none(other) is None
        or id_key_or_none(other) != id_key_or_none(image_id)
    ):
        raise ValueError(
            f'has the image_id {other!r}, and its question {id_!r} has the '
            f'image_id {image_id!r}; expected the same'
        )
    if problem := _question_problem(question):
        raise ValueError(problem)
    answers = _annotators(answer.get('answers'))
    chosen = answer.get('multiple_choice_answer') or _most_frequent(answers)
    if chosen is None:
        raise ValueError('has no answer')
    record = dict(id=id_, image_id=image_id, question=question, answer=chosen)
    if answers:
        record['answers'] = answers
    return record


def _annotators(values: Any) -> list[str]:
    """The answers of the annotators; [] for a record without some.

    Raises:
        ValueError: One of them is no text. Without it, the shares of the
            others would be larger.
    """
    answers = _answers(values)
    if isinstance(values, list) and len(answers) < len(values):
        wrong = next(
            number
            for number, value in enumerate(values, 1)
            if not _answers([value])
        )
        raise ValueError(
            f'has {short_json(values[wrong - 1])} as answer {wrong} of '
            f'{len(values)}; expected a text'
        )
    return answers


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
        # the official file is an object by id; others have a list
        if entry.key is not None and not entry.in_list:
            record['id'] = entry.key
        else:
            record.setdefault('id', record.get('question_id'))
        if 'imageId' in record:
            image = record['image'] = record.pop('imageId')
            if isinstance(image, str) and (
                wrong := id_problem('imageId', image)
            ):
                yield Item(path, entry.number, None, wrong)
                continue
        yield Item(path, entry.number, record)
