# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The layouts of a stage-2 record: which fields there are, of which kind."""

import re
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
)
from pydantic_core import PydanticCustomError

from ..prompts.text_checks import check_text, kind_of
from ..utils.errors import printable

TURNS = '"human" and "gpt" by turns'
_NAME_BYTES = 255  # of one part of a path
_PATH_BYTES = 4000
_SPEAKERS = {
    'human': 'human',
    'user': 'human',
    'gpt': 'gpt',
    'assistant': 'gpt',
    'system': 'system',
}


class RecordError(ValueError):
    """A record that cannot be used; the message names field and reason."""


def _checked(value: Any, **options: bool) -> str:
    try:
        return check_text(value, '', **options)
    except ValueError as error:
        raise PydanticCustomError(
            'text', '{reason}', dict(reason=str(error).strip().rstrip('.'))
        ) from error


def _checked_id(value: Any) -> 'int | str | None':
    if isinstance(value, float) and value.is_integer():
        return int(value)  # pandas writes 52.0 where a column has gaps
    if value is None or isinstance(value, int) and not isinstance(value, bool):
        return value
    return _checked(value) if isinstance(value, str) else _refuse_name(value)


def _refuse_name(value: Any) -> Any:
    raise PydanticCustomError(
        'name',
        'is {kind}; expected a text or a whole number',
        dict(kind=kind_of(value)),
    )


def _checked_speaker(value: Any) -> str:
    if isinstance(value, str) and value.strip().lower() in _SPEAKERS:
        return _SPEAKERS[value.strip().lower()]
    found = repr(value[:20]) if isinstance(value, str) else kind_of(value)
    raise PydanticCustomError(
        'speaker', 'is {found}; expected human or gpt', dict(found=found)
    )


def image_name(value: Any) -> str:
    """Check the name of an image.

    Args:
        value: A text or a whole number.

    Raises:
        PydanticCustomError: It is something else, an address, or no name
            that a file can have.
    """
    value = _checked_id(value)
    if value is None:
        _refuse_name(value)
    name = str(value)
    if any(char in name for char in '\n\t'):
        reason = 'holds a line break or a tab'
    elif (scheme := name.partition(':')[0]) != name and (
        scheme == 'data' or name[len(scheme) :].startswith('://')
    ):
        if scheme == 'file':
            return name
        reason = f'is an address ({scheme}:); expected the name of a file'
    elif (
        len(name.encode()) > _PATH_BYTES
        or max(len(part.encode()) for part in re.split(r'[/\\]', name))
        > _NAME_BYTES
    ):
        reason = f'is too long for the name of a file ({len(name)} characters)'
    else:
        return name
    raise PydanticCustomError('name', '{reason}', dict(reason=reason))


def _checked_images(value: Any) -> list[str]:
    if value is None:
        return []
    if not isinstance(value, list):
        return [image_name(value)]
    return [image_name(name) for name in value]


def _checked_answer(value: Any) -> str | None:
    return None if value is None else _checked(value, allow_empty=True)


_Text = Annotated[str, PlainValidator(_checked)]
_Question = Annotated[
    str, PlainValidator(lambda value: _checked(value, allow_empty=True))
]
_Id = Annotated[int | str | None, PlainValidator(_checked_id)]
_Images = Annotated[list[str], PlainValidator(_checked_images)]
_Speaker = Annotated[str, PlainValidator(_checked_speaker)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra='ignore')


class Named(_Strict):
    """What any record may have."""

    id: _Id = None
    image_id: _Id = None
    image: _Images = Field(default_factory=list)
    images: _Images = Field(default_factory=list)


class _Message(_Strict):
    speaker: _Speaker = Field(alias='from')
    text: _Question = Field(alias='value')


class _ChatMessage(_Strict):
    speaker: _Speaker = Field(alias='role')
    text: _Question = Field(alias='content')


class Llava(_Strict):
    """LLaVA: ``from`` and ``value`` by turns."""

    conversations: list[_Message] = Field(min_length=1)


class Chat(_Strict):
    """As LLaVA, with ``role`` and ``content``."""

    conversations: list[_ChatMessage] = Field(min_length=1)


class Messages(_Strict):
    """``role`` and ``content`` under ``messages``."""

    messages: list[_ChatMessage] = Field(min_length=1)


class Marked(_Strict):
    """MMPretrain: one text with ``###Ask:`` and ``###Answer:``."""

    conversation: _Question


class Caption(_Strict):
    """A description without a question."""

    caption: _Text


class Asked(_Strict):
    """A question and its answer."""

    question: _Question
    answer: _Text


class Unanswered(_Strict):
    """A question, with or without an answer (evaluation)."""

    question: _Question
    answer: Annotated[str | None, PlainValidator(_checked_answer)] = None


def parse(layout: type[BaseModel], item: dict) -> Any:
    """Check what a layout knows of a record.

    Args:
        layout: The layout.
        item: The record.

    Returns:
        An instance of the layout.

    Raises:
        RecordError: A field is missing or of another kind.
    """
    try:
        return layout.model_validate(item)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
    field = ''
    for part in first['loc']:
        field += f'[{part}]' if isinstance(part, int) else f'.{part}'
    found = kind_of(first['input'])
    reason = {
        'missing': 'is missing',
        'too_short': f'is empty; expected {TURNS}',
        'list_type': f'is {found}; expected a list',
        'model_type': f'is {found}; expected an object',
    }.get(first['type'], first['msg'])
    if first['type'] == 'missing' and len(first['loc']) == 1:
        reason += '; expected a text'
    raise RecordError(printable(f'{field[1:]} {reason}'))
