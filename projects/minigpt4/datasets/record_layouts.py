# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The layouts of a record of stage 2: its fields and their types."""

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

from ..prompts.text_validation import check_text, json_type
from ..utils.errors import printable
from ..utils.ids import checked_id

ALTERNATING = 'alternating "human" and "gpt"'
_MAX_NAME_BYTES = 255  # of a file or folder name
_MAX_PATH_BYTES = 4000
_SPEAKERS = {
    'human': 'human',
    'user': 'human',
    'gpt': 'gpt',
    'assistant': 'gpt',
    'system': 'system',
}


class RecordError(ValueError):
    """An invalid record; the message names the field and the reason."""


def _text(value: Any, **options: bool) -> str:
    try:
        return check_text(value, '', **options)
    except ValueError as error:
        raise PydanticCustomError(
            'text', '{reason}', dict(reason=str(error).strip().rstrip('.'))
        ) from error


def _record_id(value: Any) -> 'int | str | None':
    if value is None:
        return value
    if isinstance(value, str):
        return _text(value)
    try:
        return checked_id(value)
    except ValueError:
        return _refuse_name(value)


def _refuse_name(value: Any) -> Any:
    raise PydanticCustomError(
        'name',
        'is {kind}; expected a string or a whole number',
        dict(kind=json_type(value)),
    )


def _speaker(value: Any) -> str:
    if isinstance(value, str) and value.strip().lower() in _SPEAKERS:
        return _SPEAKERS[value.strip().lower()]
    found = repr(value[:20]) if isinstance(value, str) else json_type(value)
    raise PydanticCustomError(
        'speaker', 'is {found}; expected human or gpt', dict(found=found)
    )


def image_name(value: Any) -> str:
    """Check the name of an image.

    Args:
        value: A string or an integer.

    Raises:
        PydanticCustomError: The value has another type, or is a URL or not a
            valid file name.
    """
    value = _record_id(value)
    if value is None:
        _refuse_name(value)
    name = str(value)
    if any(char in name for char in '\n\t'):
        reason = 'contains a line break or a tab'
    elif (scheme := name.partition(':')[0]) != name and (
        scheme == 'data' or name[len(scheme) :].startswith('://')
    ):
        if scheme == 'file':
            return name
        reason = f'is a URL ({scheme}:); expected the name of a file'
    elif (
        len(name.encode()) > _MAX_PATH_BYTES
        or max(len(part.encode()) for part in re.split(r'[/\\]', name))
        > _MAX_NAME_BYTES
    ):
        reason = f'is too long for a file name ({len(name)} characters)'
    else:
        return name
    raise PydanticCustomError('name', '{reason}', dict(reason=reason))


def _image_names(value: Any) -> list[str]:
    if value is None:
        return []
    if not isinstance(value, list):
        return [image_name(value)]
    return [image_name(name) for name in value]


def _optional_text(value: Any) -> str | None:
    return None if value is None else _text(value, allow_empty=True)


_Text = Annotated[str, PlainValidator(_text)]
_TextOrEmpty = Annotated[
    str, PlainValidator(lambda value: _text(value, allow_empty=True))
]
_OptionalText = Annotated[str | None, PlainValidator(_optional_text)]
_Id = Annotated[int | str | None, PlainValidator(_record_id)]
_Images = Annotated[list[str], PlainValidator(_image_names)]
_Speaker = Annotated[str, PlainValidator(_speaker)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra='ignore')


class Identifiers(_Strict):
    """The id and image names of a record of any layout."""

    id: _Id = None
    image_id: _Id = None
    image: _Images = Field(default_factory=list)
    images: _Images = Field(default_factory=list)


class _FromMessage(_Strict):
    speaker: _Speaker = Field(alias='from')
    text: _TextOrEmpty = Field(alias='value')


class _RoleMessage(_Strict):
    speaker: _Speaker = Field(alias='role')
    text: _TextOrEmpty = Field(alias='content')


class Llava(_Strict):
    """LLaVA: messages of ``from`` and ``value`` under ``conversations``."""

    conversations: list[_FromMessage] = Field(min_length=1)


class LlavaRoles(_Strict):
    """Messages of ``role`` and ``content`` under ``conversations``."""

    conversations: list[_RoleMessage] = Field(min_length=1)


class Messages(_Strict):
    """Messages of ``role`` and ``content`` under ``messages``."""

    messages: list[_RoleMessage] = Field(min_length=1)


class MMPretrain(_Strict):
    """MMPretrain: one text with ``###Ask:`` and ``###Answer:``."""

    conversation: _TextOrEmpty


class Caption(_Strict):
    """A caption without a question."""

    caption: _Text


class QuestionAnswer(_Strict):
    """A question and its answer."""

    question: _TextOrEmpty
    answer: _Text


class Question(_Strict):
    """A question, with or without an answer, for evaluation."""

    question: _TextOrEmpty
    answer: _OptionalText = None


def parse(layout: type[BaseModel], item: dict) -> Any:
    """Check the fields of a layout in a record.

    Args:
        layout: The layout.
        item: The record.

    Returns:
        An instance of the layout.

    Raises:
        RecordError: A field is missing or has an invalid value.
    """
    try:
        return layout.model_validate(item)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
    field = ''
    for part in first['loc']:
        field += f'[{part}]' if isinstance(part, int) else f'.{part}'
    found = json_type(first['input'])
    reason = {
        'missing': 'is missing',
        'too_short': f'is empty; expected {ALTERNATING}',
        'list_type': f'is {found}; expected a list',
        'model_type': f'is {found}; expected an object',
    }.get(first['type'], first['msg'])
    if first['type'] == 'missing' and len(first['loc']) == 1:
        reason += '; expected a string'
    raise RecordError(printable(f'{field[1:]} {reason}'))
