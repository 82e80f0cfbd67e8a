# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Stage 2's records: checked, and brought from any layout to one form."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pydantic_core import PydanticCustomError

from ..prompts.prompt import IMAGE_HERE, Turn
from ..prompts.text_checks import kind_of
from .record_files import RECORD_KEYS, RepeatedKey, Unreadable
from .record_layouts import (
    TURNS,
    Asked,
    Caption,
    Chat,
    Llava,
    Marked,
    Messages,
    Named,
    RecordError,
    Unanswered,
    image_name,
    parse,
)

# questions and answers of MMPretrain's conversation JSON, and upstream's own
_MARKS = re.compile(r'###\s?(Ask|Answer|Human|Assistant|问|答)[：:] ?')
_ASKS = ('Ask', 'Human', '问')
_WRAPPED = re.compile(r'<Img>\s*<ImageHere>\s*</Img>')
# Qwen-VL's way to name an image
_PATH_IN_TEXT = re.compile(r'<img>[^<>\n]+</img>')
# keys of image names in other projects
_OTHER_NAMES = (
    *('image_path', 'img_path', 'image_file', 'image_name', 'file_name'),
    *('img', 'filename'),
)
_OTHER_MEDIA = ('video', 'videos', 'audio', 'audios')
_LLAVA_IMAGE = '<image>'
_OPENING, _CLOSING = '([{"\'“‘«', '.,;:!?)]}"\'”’»%…。，、；：！？）】'
# what is not kept in the record as it is
_USED = {*RECORD_KEYS, 'image', 'images'} - {'question'}


class Record(NamedTuple):
    """A checked record.

    Attributes:
        content: ``images`` (list of names), ``turns`` (list of
            :class:`~minigpt4.prompts.Turn`), ``id``, and the record's keys
            that have no meaning here.
        dropped_turn: Whether a first turn of the assistant or a system line
            was dropped.
    """

    content: dict
    dropped_turn: bool = False


def read_record(
    item: Any,
    number: int,
    file_names: Mapping[str, Any] | None = None,
    keep_answers: bool = True,
) -> Record:
    """Check a record of any layout and bring it to one form.

    Args:
        item: The record as it is in the file.
        number: Its number, which is its id where it has none.
        file_names: COCO's table of images, if the file has one.
        keep_answers: Whether every question must have an answer (training);
            else the last may lack it, and it moves to the record's
            ``answer`` (evaluation).

    Raises:
        RecordError: It cannot be used.
    """
    if isinstance(item, Unreadable):
        raise RecordError(item.reason)
    if not isinstance(item, dict):
        raise RecordError(f'is {kind_of(item)}; expected an object')
    if isinstance(item, RepeatedKey):
        raise RecordError(f'has the key {item.key!r} twice; expected it once')
    for key in _OTHER_MEDIA:
        if item.get(key):
            raise RecordError(f'has a {key}; this model reads images alone')
    named = parse(Named, item)
    turns, dropped = _turns(item, keep_answers)
    images = _images(item, named, turns, file_names)
    if images:
        turns = [
            Turn(_place_images(turn.question), turn.answer) for turn in turns
        ]
    elif any(_PATH_IN_TEXT.search(turn.question) for turn in turns):
        raise RecordError(
            'has the name of an image in a question, as <img>NAME</img>; '
            'expected the name under image and <image> in the question'
        )
    slots = sum(turn.question.count(IMAGE_HERE) for turn in turns)
    if slots and slots != len(images):
        raise RecordError(
            f'has {slots} places for images in its questions, but names '
            f'{len(images)} images; expected one place for each'
        )
    content = {k: v for k, v in item.items() if k not in _USED}
    content['id'] = next(
        (i for i in (named.id, named.image_id) if i is not None), number
    )
    if not keep_answers:
        content['answer'] = turns[-1].answer
        turns[-1] = Turn(turns[-1].question)
    return Record({**content, 'images': images, 'turns': turns}, dropped)


def _turns(item: dict, keep_answers: bool) -> tuple[list[Turn], bool]:
    """The turns of a record, and whether a first one was dropped."""
    if 'conversations' in item:
        messages = item['conversations']
        chat = isinstance(messages, list) and any(
            isinstance(message, dict) and 'role' in message
            for message in messages
        )
        layout = Chat if chat else Llava
        return _alternating(
            parse(layout, item).conversations, 'conversations', keep_answers
        )
    if 'messages' in item:
        return _alternating(
            parse(Messages, item).messages, 'messages', keep_answers
        )
    if 'conversation' in item:
        return _marked(parse(Marked, item).conversation, keep_answers)
    if 'caption' in item:
        return [Turn('', parse(Caption, item).caption)], False
    if 'question' in item:
        flat = parse(Asked if keep_answers else Unanswered, item)
        return [Turn(_blank_to_none(flat.question), flat.answer)], False
    raise RecordError(
        f'has the keys {sorted(item)[:20]}; expected caption, conversation, '
        'conversations, messages or question'
    )


def _alternating(
    messages: Sequence, field: str, keep_answers: bool
) -> tuple[list[Turn], bool]:
    """Messages of a human and an assistant by turns.

    A first message that is not of the human is dropped, as LLaVA drops it.
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
                f'{TURNS}'
            )
    if not speakers or (len(speakers) % 2 and keep_answers):
        raise RecordError(
            f'{field} ends without an answer to the last question; expected '
            f'{TURNS}'
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
                    'expected some words to learn'
                )
        turns.append(Turn(question, answer))
    return turns, bool(dropped)


def _marked(text: str, keep_answers: bool) -> tuple[list[Turn], bool]:
    """``###Ask: ... ###Answer: ...``, repeated.

    A text in front of the first question is dropped.
    """
    before, *pieces = _MARKS.split(text)
    asks = [mark in _ASKS for mark in pieces[::2]]
    parts = [part.strip() for part in pieces[1::2]]
    if len(asks) % 2 and asks[-1] and not keep_answers:
        asks.append(False)
        parts.append('')
    if not asks or asks != [True, False] * (len(asks) // 2):
        raise RecordError(
            f'conversation {text[:60]!r} does not alternate between '
            '"###Ask: " and "###Answer: "'
        )
    for i, part in enumerate(parts):
        if not part and i and keep_answers:
            raise RecordError(
                f'conversation has an empty part ({i + 1} of {len(parts)}); '
                'expected some text after each mark'
            )
    turns = [
        Turn(question, answer)
        for question, answer in zip(parts[::2], parts[1::2], strict=True)
    ]
    return turns, bool(before.strip())


def _blank_to_none(question: str) -> str:
    """A question; '' for one that is blank, which a transform fills."""
    return question if question.strip() else ''


def _images(
    item: dict,
    named: Named,
    turns: Sequence[Turn],
    file_names: Mapping[str, Any] | None,
) -> list[str]:
    """The names of a record's images."""
    if named.image and named.images:
        raise RecordError('has both image and images; expected one of them')
    if 'image' in item or 'images' in item:
        images = named.image or named.images
    elif other := next((k for k in _OTHER_NAMES if item.get(k)), None):
        try:
            images = [image_name(item[other])]
        except PydanticCustomError as error:
            raise RecordError(f'{other} {error.message()}') from error
    elif named.image_id is not None or 'image_id' in item:
        images = _by_id('image_id', named.image_id, file_names)
    elif 'caption' in item or any(
        IMAGE_HERE in turn.question for turn in turns
    ):
        images = _by_id('id', named.id, file_names)
    else:
        images = []
    if 'caption' in item and not images and 'conversations' not in item:
        raise RecordError('is a caption without an image; expected image_id')
    return images


def _by_id(
    field: str, value: Any, file_names: Mapping[str, Any] | None
) -> list[str]:
    if value is None:
        return []
    if file_names is None:
        try:
            return [image_name(value)]
        except PydanticCustomError as error:
            raise RecordError(f'{field} {error.message()}') from error
    if str(value) not in file_names:
        raise RecordError(
            f'{field} is {value!r}, which the table "images" of the file does '
            'not have'
        )
    name = file_names[str(value)]
    if name is None:
        raise RecordError(
            f'{field} is {value!r}, which has no or more than one file_name '
            'in the table "images" of the file'
        )
    try:
        return [image_name(name)]
    except PydanticCustomError as error:
        raise RecordError(
            f'file_name of image {value!r} {error.message()}'
        ) from error


def _place_images(question: str) -> str:
    """``<image>`` and wrapped images to ``<ImageHere>``, spaced.

    Blanks and line ends next to an image become one blank, none between two
    images and none at the ends of the question. Where there is none, one
    stands between an image and a word.
    """
    question = question.replace(_LLAVA_IMAGE, IMAGE_HERE)
    parts = _WRAPPED.sub(IMAGE_HERE, question).split(IMAGE_HERE)
    if len(parts) == 1:
        return question
    placed = ''
    for i, part in enumerate(parts):
        text = part.strip()
        if i and text:
            glued = part[0] == text[0] and text[0] in _CLOSING
            placed += '' if glued else ' '
        placed += text
        if i < len(parts) - 1:
            if text and not (part[-1] == text[-1] and text[-1] in _OPENING):
                placed += ' '
            placed += IMAGE_HERE
    return placed
