# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Check a record of stage 2 and convert it from any layout to turns."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pydantic_core import PydanticCustomError

from ..prompts import IMAGE_HERE, Turn
from ..prompts.text_validation import json_type
from .image_folder import id_problem
from .json_values import DuplicateKey, InvalidJson
from .record_files import RECORD_KEYS
from .record_layouts import (
    ALTERNATING,
    Caption,
    Identifiers,
    Llava,
    LlavaRoles,
    Messages,
    MMPretrain,
    Question,
    QuestionAnswer,
    RecordError,
    image_name,
    parse,
)

# marks of questions and answers in MMPretrain's and MiniGPT-4's JSON
_MARKS = re.compile(r'###\s?(Ask|Answer|Human|Assistant|问|答)[：:] ?')
_QUESTION_MARKS = ('Ask', 'Human', '问')
_WRAPPED_SLOT = re.compile(r'<Img>\s*<ImageHere>\s*</Img>')
# an image in the format of Qwen-VL
_PATH_IN_TEXT = re.compile(r'<img>[^<>\n]+</img>')
# keys of image names in other projects
IMAGE_KEYS = (
    *('image_path', 'img_path', 'image_file', 'image_name', 'file_name'),
    *('img', 'filename'),
)
_OTHER_MEDIA = ('video', 'videos', 'audio', 'audios')
_LLAVA_IMAGE = '<image>'
_OPENING, _CLOSING = '([{"\'“‘«', '.,;:!?)]}"\'”’»%…。，、；：！？）】'
# keys that are converted; the others remain in the record
_CONVERTED = {*RECORD_KEYS, 'image', 'images'} - {'question'}


class Record(NamedTuple):
    """A valid record.

    Attributes:
        content: ``images`` (list of names), ``turns`` (list of
            :class:`~minigpt4.prompts.Turn`), ``id``, and the other keys of
            the record.
        dropped_turn: Whether a first message of the assistant or a system
            message was dropped.
    """

    content: dict
    dropped_turn: bool = False


def read_record(
    item: Any,
    number: int,
    file_names: Mapping[str, Any] | None = None,
    keep_answers: bool = True,
) -> Record:
    """Check a record of any layout and convert it.

    Args:
        item: The record in the file.
        number: Number of the record, used as id of a record without one.
        file_names: COCO's table of images, if the file has one.
        keep_answers: Whether every question must have an answer (training);
            else the last answer is optional and moves to the record's
            ``answer`` (evaluation).

    Raises:
        RecordError: The record is invalid.
    """
    if isinstance(item, InvalidJson):
        raise RecordError(item.reason)
    if not isinstance(item, dict):
        raise RecordError(f'is {json_type(item)}; expected an object')
    if isinstance(item, DuplicateKey):
        raise RecordError(f'has the key {item.key!r} twice; expected it once')
    for key in _OTHER_MEDIA:
        if item.get(key):
            raise RecordError(f'has a {key}; this model reads only images')
    identifiers = parse(Identifiers, item)
    turns, dropped = _turns(item, keep_answers)
    images = _images(item, identifiers, turns, file_names)
    if images:
        turns = [
            Turn(_normalise_slots(turn.question), turn.answer)
            for turn in turns
        ]
    elif any(_PATH_IN_TEXT.search(turn.question) for turn in turns):
        raise RecordError(
            'has the name of an image in a question, as <img>NAME</img>; '
            'expected the name under image and <image> in the question'
        )
    slots = sum(turn.question.count(IMAGE_HERE) for turn in turns)
    if slots and slots != len(images):
        raise RecordError(
            f'has {slots} image slots in its questions, but {len(images)} '
            'images; expected one image slot per image'
        )
    content = {k: v for k, v in item.items() if k not in _CONVERTED}
    ids = (identifiers.id, identifiers.image_id, number)
    content['id'] = next(i for i in ids if i is not None)
    if not keep_answers:
        content['answer'] = turns[-1].answer
        turns[-1] = Turn(turns[-1].question)
    return Record({**content, 'images': images, 'turns': turns}, dropped)


def _turns(item: dict, keep_answers: bool) -> tuple[list[Turn], bool]:
    """Return the turns, and whether a first message was dropped."""
    if 'conversations' in item:
        messages = item['conversations']
        has_roles = isinstance(messages, list) and any(
            isinstance(message, dict) and 'role' in message
            for message in messages
        )
        layout = LlavaRoles if has_roles else Llava
        return _pair_messages(
            parse(layout, item).conversations, 'conversations', keep_answers
        )
    if 'messages' in item:
        return _pair_messages(
            parse(Messages, item).messages, 'messages', keep_answers
        )
    if 'conversation' in item:
        return _split_marked(
            parse(MMPretrain, item).conversation, keep_answers
        )
    if 'caption' in item:
        return [Turn('', parse(Caption, item).caption)], False
    if 'question' in item:
        flat = parse(QuestionAnswer if keep_answers else Question, item)
        return [Turn(_blank_to_none(flat.question), flat.answer)], False
    raise RecordError(
        f'has the keys {sorted(item)[:20]}; expected caption, conversation, '
        'conversations, messages or question'
    )


def _pair_messages(
    messages: Sequence, field: str, keep_answers: bool
) -> tuple[list[Turn], bool]:
    """Convert alternating messages of human and assistant to turns.

    A first message that is not of the human is dropped, as in LLaVA.
    """
    dropped = messages[0].speaker != 'human'
    messages = messages[dropped:]
    speakers = [message.speaker for message in messages]
    turns = []
    for i, message in enumerate(messages):
        expected = 'gpt' if i % 2 else 'human'
        if message.speaker != expected:
            raise RecordError(
                f'{field}[{i + dropped}] is of {message.speaker}; expected '
                f'{ALTERNATING}'
            )
    if not speakers or (len(speakers) % 2 and keep_answers):
        raise RecordError(
            f'{field} ends without an answer to the last question; expected '
            f'{ALTERNATING}'
        )
    for i in range(0, len(messages), 2):
        question = _blank_to_none(messages[i].text)
        if i and not question:
            raise RecordError(
                f'{field}[{i + dropped}] has an empty question; expected some '
                'text'
            )
        answer = None
        if i + 1 < len(messages):
            answer = messages[i + 1].text.strip()
            if not answer and (keep_answers or i + 2 < len(messages)):
                raise RecordError(
                    f'{field}[{i + 1 + dropped}] has an empty answer; '
                    'expected some text'
                )
        turns.append(Turn(question, answer))
    return turns, bool(dropped)


def _split_marked(text: str, keep_answers: bool) -> tuple[list[Turn], bool]:
    """Split ``###Ask: ... ###Answer: ...`` into turns.

    A text before the first question is dropped.
    """
    before, *pieces = _MARKS.split(text)
    is_question = [mark in _QUESTION_MARKS for mark in pieces[::2]]
    texts = [piece.strip() for piece in pieces[1::2]]
    if len(is_question) % 2 and is_question[-1] and not keep_answers:
        is_question.append(False)
        texts.append('')
    if not texts or is_question != [True, False] * (len(texts) // 2):
        raise RecordError(
            f'conversation {text[:60]!r} does not alternate between '
            '"###Ask: " and "###Answer: "'
        )
    for i, text in enumerate(texts):
        if not text and i and keep_answers:
            raise RecordError(
                f'conversation has no text after mark {i + 1} of '
                f'{len(texts)}; expected some text after each mark'
            )
    turns = [
        Turn(question, answer)
        for question, answer in zip(texts[::2], texts[1::2], strict=True)
    ]
    return turns, bool(before.strip())


def _blank_to_none(question: str) -> str:
    """Return a question; '' for a blank one, which a transform fills."""
    return question if question.strip() else ''


def _images(
    item: dict,
    identifiers: Identifiers,
    turns: Sequence[Turn],
    file_names: Mapping[str, Any] | None,
) -> list[str]:
    """Return the names of the images of a record."""
    if identifiers.image and identifiers.images:
        raise RecordError('has both image and images; expected one of them')
    if 'image' in item or 'images' in item:
        images = identifiers.image or identifiers.images
    elif key := next((k for k in IMAGE_KEYS if item.get(k)), None):
        images = [_checked_name(key, item[key])]
    elif identifiers.image_id is not None or 'image_id' in item:
        images = _images_by_id('image_id', identifiers.image_id, file_names)
    elif 'caption' in item or any(
        IMAGE_HERE in turn.question for turn in turns
    ):
        images = _images_by_id('id', identifiers.id, file_names)
    else:
        images = []
    if 'caption' in item and not images and 'conversations' not in item:
        raise RecordError('is a caption without an image; expected image_id')
    return images


def _checked_name(field: str, value: Any) -> str:
    try:
        return image_name(value)
    except PydanticCustomError as error:
        raise RecordError(f'{field} {error.message()}') from error


def _images_by_id(
    field: str, value: Any, file_names: Mapping[str, Any] | None
) -> list[str]:
    """Return the image of an id: its file name in COCO's table, or the id.

    Raises:
        RecordError: The table lacks the id, or it leads out of the folder of
            the images, as only a path may that a record has under ``image``.
    """
    if value is None:
        return []
    if file_names is None:
        name = _checked_name(field, value)
        if problem := id_problem(field, name):
            raise RecordError(problem)
        return [name]
    if str(value) not in file_names:
        raise RecordError(
            f'{field} is {value!r}, which is not in the table "images" of the '
            'file'
        )
    name = file_names[str(value)]
    if name is None:
        raise RecordError(
            f'{field} is {value!r}, which has no or more than one file_name '
            'in the table "images" of the file'
        )
    return [_checked_name(f'file_name of image {value!r}', name)]


def _normalise_slots(question: str) -> str:
    """Replace ``<image>`` and wrapped slots by ``<ImageHere>``.

    One space separates a slot from a word, whatever white space was between
    them. There is no space between two slots, nor at the ends of the
    question.
    """
    question = question.replace(_LLAVA_IMAGE, IMAGE_HERE)
    parts = _WRAPPED_SLOT.sub(IMAGE_HERE, question).split(IMAGE_HERE)
    if len(parts) == 1:
        return question
    result = ''
    for i, part in enumerate(parts):
        text = part.strip()
        if i and text:
            is_closing = part[0] == text[0] and text[0] in _CLOSING
            result += '' if is_closing else ' '
        result += text
        if i < len(parts) - 1:
            if text and not (part[-1] == text[-1] and text[-1] in _OPENING):
                result += ' '
            result += IMAGE_HERE
    return result
