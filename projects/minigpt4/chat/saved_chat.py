# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Read the JSON file of a saved chat and check every field."""

import base64
import binascii
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from typing import Any

from PIL import Image

from ..images.read import SampleError, read_image
from ..images.thumbnail import data_url
from ..prompts import IMAGE_HERE, Turn
from ..prompts.text_validation import check_characters
from ..utils.errors import one_line, printable, short_json
from ..utils.regular_files import open_regular, read_regular

VERSION = 1  # of the format; a file without a version has this one


@dataclass
class SavedChat:
    """The contents of a saved chat.

    Attributes:
        turns: The turns, each with an answer.
        images: Paths or decoded images, one for each ``<ImageHere>``.
        system: The system line; None for the model's.
    """

    turns: list[Turn]
    images: 'list[str | Image.Image]'
    system: str | None


def read_saved_chat(path: 'str | PathLike') -> SavedChat:
    """Read a saved chat.

    Args:
        path: The file.

    Raises:
        SampleError: An image is missing or cannot be read.
        ValueError: The file is not a regular file or not a saved chat; the
            message names the invalid field.
        OSError: The file is missing or cannot be opened.
    """
    data = read_regular(path)
    try:
        content = json.loads(data.decode('utf-8-sig'))
    except RecursionError:
        raise _not_a_chat(path, 'it is nested too deeply') from None
    except ValueError as error:
        reason = f'it is not JSON: {one_line(error)}'
        raise _not_a_chat(path, reason) from error
    try:
        return _parse(content)
    except _FieldError as error:
        raise _not_a_chat(path, str(error)) from None


def is_saved_chat(data: 'str | bytes') -> bool:
    """Whether the contents of a file look like a saved chat.

    Args:
        data: The contents.
    """
    try:
        content = json.loads(data)
    except (RecursionError, ValueError):
        return False
    return isinstance(content, dict) and 'turns' in content


def image_text(image: Any) -> str:
    """The text of an image in a saved chat: its path, or a PNG data URL.

    Args:
        image: Anything that :func:`~minigpt4.images.read.read_image` reads.
    """
    if isinstance(image, (str, PathLike)):
        return str(image)
    buffer = io.BytesIO()
    read_image(image).save(buffer, 'PNG')
    return data_url(buffer.getvalue(), 'image/png')


class _FieldError(Exception):
    """A field of a saved chat is invalid."""


def _not_a_chat(path: 'str | PathLike', reason: str) -> ValueError:
    return ValueError(
        f'{printable(str(path))} is not a saved chat ({reason}); expected the '
        'JSON that ChatSession.save writes.'
    )


def _parse(content: Any) -> SavedChat:
    if not isinstance(content, Mapping):
        raise _FieldError(f'it is {short_json(content)}, not an object')
    version = content.get('version', VERSION)
    if version != VERSION:
        raise _FieldError(
            f'its version is {short_json(version)}; this version of minigpt4 '
            f'reads {VERSION}'
        )
    turns = [
        _parse_turn(turn, number)
        for number, turn in enumerate(_parse_list(content, 'turns'), 1)
    ]
    texts = _parse_list(content, 'images')
    slots = sum(turn.question.count(IMAGE_HERE) for turn in turns)
    if slots not in (0, len(texts)):  # 0: images precede the first question
        raise _FieldError(
            f'its turns have {slots} {IMAGE_HERE}, but there are '
            f'{len(texts)} images'
        )
    system = content.get('system')
    if system is not None:
        system = _parse_text(system, 'system')
    images = [
        _parse_image(text, number) for number, text in enumerate(texts, 1)
    ]
    return SavedChat(turns, images, system)


def _parse_list(content: Mapping[str, Any], name: str) -> list:
    if name not in content:
        raise _FieldError(f'it has no {name}')
    value = content[name]
    if not isinstance(value, list):
        raise _FieldError(f'{name} is {short_json(value)}, not a list')
    return value


def _parse_turn(turn: Any, number: int) -> Turn:
    if not isinstance(turn, Mapping):
        raise _FieldError(
            f'turn {number} is {short_json(turn)}, not an object'
        )
    texts: dict[str, str] = {}
    for name in ('question', 'answer'):
        if name not in turn:
            raise _FieldError(f'turn {number} has no {name}')
        texts[name] = _parse_text(turn[name], f'the {name} of turn {number}')
    return Turn(texts['question'], texts['answer'])


def _parse_text(value: Any, field: str) -> str:
    if not isinstance(value, str):
        raise _FieldError(f'{field} is {short_json(value)}, not a text')
    try:
        check_characters(value, field)
    except ValueError as error:
        raise _FieldError(str(error).partition(';')[0]) from None
    return value


def _parse_image(text: Any, number: int) -> 'str | Image.Image':
    if not isinstance(text, str):
        raise _FieldError(f'image {number} is {short_json(text)}, not a text')
    if text.startswith('data:'):
        try:
            data = base64.b64decode(text.partition(',')[2], validate=True)
        except (binascii.Error, ValueError):
            raise _FieldError(f'image {number} is not base64') from None
        return read_image(data, f'image {number} of the saved chat')
    try:
        open_regular(text).close()
    except FileNotFoundError:
        raise SampleError(
            f'image {number} of the saved chat: {printable(text)} does not '
            'exist; restore the image, or correct its path in the file.'
        ) from None
    except (OSError, ValueError) as error:
        raise SampleError(
            f'image {number} of the saved chat cannot be read: '
            f'{one_line(error)}'
        ) from error
    return text
