# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Reading the JSON file of a saved chat, with every field checked."""

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
from ..prompts import IMAGE_HERE, Turn
from ..prompts.text_validation import check_characters
from ..utils.errors import one_line, printable
from ..utils.regular_files import open_regular, read_regular

VERSION = 1  # of the format; a file that names none has this one
_PNG = 'data:image/png;base64,'


@dataclass
class SavedChat:
    """What a saved chat holds.

    Attributes:
        turns: Its turns, each with an answer.
        images: Paths or pictures, one for each ``<ImageHere>``.
        system: The system line; None is the model's.
    """

    turns: list[Turn]
    images: 'list[str | Image.Image]'
    system: str | None


def read_saved_chat(path: 'str | PathLike') -> SavedChat:
    """Read a saved chat.

    Args:
        path: The file.

    Raises:
        SampleError: A picture is missing or cannot be read.
        ValueError: It is not a regular file or not a saved chat; the message
            names the field.
        OSError: It is missing or cannot be opened.
    """
    data = read_regular(path)
    try:
        content = json.loads(data.decode('utf-8-sig'))
    except RecursionError:
        raise _refused(path, 'it is nested too deeply') from None
    except ValueError as error:
        raise _refused(path, f'it is not JSON: {one_line(error)}') from error
    try:
        return _checked(content)
    except _FieldError as error:
        raise _refused(path, str(error)) from None


def _refused(path: 'str | PathLike', reason: str) -> ValueError:
    return ValueError(
        f'{printable(str(path))} is no saved chat ({reason}); expected the '
        'JSON that ChatSession.save writes.'
    )


def image_text(image: Any) -> str:
    """A picture as a saved chat has it: its path, or a data URL of a PNG.

    Args:
        image: What :func:`~minigpt4.images.read.read_image` reads.
    """
    if isinstance(image, (str, PathLike)):
        return str(image)
    buffer = io.BytesIO()
    read_image(image).save(buffer, 'PNG')
    return _PNG + base64.b64encode(buffer.getvalue()).decode()


class _FieldError(Exception):
    """A field of a saved chat is wrong."""


def _checked(content: Any) -> SavedChat:
    if not isinstance(content, Mapping):
        raise _FieldError(f'it is {_short(content)}, not an object')
    version = content.get('version', VERSION)
    if version != VERSION:
        raise _FieldError(
            f'its version is {_short(version)}; this version of minigpt4 '
            f'reads {VERSION}'
        )
    turns = [
        _turn(turn, number)
        for number, turn in enumerate(_list(content, 'turns'), 1)
    ]
    texts = _list(content, 'images')
    slots = sum(turn.question.count(IMAGE_HERE) for turn in turns)
    if slots not in (0, len(texts)):  # without any they are in front
        raise _FieldError(
            f'its turns have {slots} {IMAGE_HERE}, but there are '
            f'{len(texts)} images'
        )
    system = content.get('system')
    if system is not None:
        system = _text(system, 'system')
    images = [_image(text, number) for number, text in enumerate(texts, 1)]
    return SavedChat(turns, images, system)


def _list(content: Mapping, name: str) -> list:
    if name not in content:
        raise _FieldError(f'it has no {name}')
    value = content[name]
    if not isinstance(value, list):
        raise _FieldError(f'{name} is {_short(value)}, not a list')
    return value


def _turn(turn: Any, number: int) -> Turn:
    if not isinstance(turn, Mapping):
        raise _FieldError(f'turn {number} is {_short(turn)}, not an object')
    texts: dict[str, str] = {}
    for name in ('question', 'answer'):
        if name not in turn:
            raise _FieldError(f'turn {number} has no {name}')
        texts[name] = _text(turn[name], f'the {name} of turn {number}')
    return Turn(texts['question'], texts['answer'])


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise _FieldError(f'{what} is {_short(value)}, not a text')
    try:
        check_characters(value, what)
    except ValueError as error:
        raise _FieldError(str(error).partition(';')[0]) from None
    return value


def _image(text: Any, number: int) -> 'str | Image.Image':
    if not isinstance(text, str):
        raise _FieldError(f'image {number} is {_short(text)}, not a text')
    if text.startswith('data:'):
        try:
            data = base64.b64decode(text.partition(',')[2], validate=True)
        except (binascii.Error, ValueError):
            raise _FieldError(f'image {number} is not base64') from None
        return read_image(data, f'image {number} of the saved chat')
    try:
        open_regular(text).close()
    except FileNotFoundError:
        raise _gone(text, number) from None
    except (OSError, ValueError) as error:
        raise SampleError(
            f'image {number} of the saved chat cannot be read: '
            f'{one_line(error)}'
        ) from error
    return text


def _gone(text: str, number: int) -> SampleError:
    return SampleError(
        f'image {number} of the saved chat: {printable(text)} does not '
        'exist; put it there, or correct its path in the file.'
    )


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return printable(text if len(text) <= 60 else text[:57] + '...')
