# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Check a record with two answers, as TRL reads them for DPO."""

from collections.abc import Mapping
from typing import Any

from ..prompts import IMAGE_HERE
from ..prompts.text_validation import json_type
from ..utils.errors import printable
from .json_values import DuplicateKey, InvalidJson
from .parse_records import Record, read_record
from .record_layouts import RecordError

_ANSWERS = ('chosen', 'rejected')
_EXPECTED = 'expected a text or a list of messages'


def read_pair(
    item: Any, number: int, file_names: Mapping[str, Any] | None = None
) -> Record:
    """Check a preference pair in any of TRL's forms and convert it.

    - conversational: ``prompt``, ``chosen`` and ``rejected`` are lists of
      messages of ``role`` and ``content``. A content is a text, or a list of
      ``{"type": "image"}`` and ``{"type": "text", "text": ...}``.
    - conversational without ``prompt``: both lists begin with the same
      messages and end with the answer.
    - plain: ``prompt``, ``chosen`` and ``rejected`` are texts; ``prompt`` may
      be missing.

    The names of the images are under ``images`` or ``image``.

    Args:
        item: The record in the file.
        number: Number of the record, used as id of a record without one.
        file_names: COCO's table of images; not used by any form.

    Returns:
        The record of :func:`read_record` with the chosen answer in the last
        of its ``turns``, and ``rejected``, a text.

    Raises:
        RecordError: The record is invalid.
    """
    if isinstance(item, (DuplicateKey, InvalidJson)) or not isinstance(
        item, dict
    ):
        return read_record(item, number)  # raises the error
    prompt, answers = _split(item)
    others = {
        key: value
        for key, value in item.items()
        if key not in ('prompt', 'messages', *_ANSWERS)
    }
    records = []
    for name in _ANSWERS:
        messages = [*prompt, dict(role='assistant', content=answers[name])]
        try:
            records.append(
                read_record({**others, 'messages': messages}, number)
            )
        except RecordError as error:
            raise RecordError(f'with its {name} answer: {error}') from error
    chosen, rejected = (r.content['turns'][-1].answer for r in records)
    if chosen == rejected:
        raise RecordError(
            'has the same text as chosen and as rejected; expected two '
            'different answers'
        )
    content = {**records[0].content, 'rejected': rejected}
    return Record(content, records[0].dropped_turn)


def _split(item: dict) -> tuple[list[dict], dict[str, Any]]:
    """Return the messages before the answers, and the answers' texts."""
    for name in _ANSWERS:
        if name not in item:
            keys = printable(', '.join(map(str, sorted(item)[:20])))
            raise RecordError(f'has the keys {keys}, no {name}; {_EXPECTED}')
    prompt = item.get('prompt')
    messages = [] if prompt is None else _messages('prompt', prompt, 'user')
    answers: dict[str, Any] = {}
    before: dict[str, list[dict]] = {}
    for name in _ANSWERS:
        *before[name], last = _messages(name, item[name], 'assistant')
        if last.get('role') != 'assistant':
            raise RecordError(
                f'{name} ends with a message of '
                f'{printable(repr(last.get("role"))[:40])}; expected one of '
                "'assistant'"
            )
        answers[name] = last.get('content')
    if before['chosen'] != before['rejected']:
        raise RecordError(
            'has different messages before the answers of chosen and '
            'rejected; expected the same ones'
        )
    if prompt is not None and before['chosen']:
        raise RecordError(
            'has a prompt, and other messages before the answer of chosen; '
            'expected one answer'
        )
    messages += before['chosen']
    if not messages:  # a question is drawn for it
        messages = [dict(role='user', content='')]
    return messages, answers


def _messages(name: str, value: Any, role: str) -> list[dict]:
    """Convert a text or a list of messages to messages with texts."""
    if isinstance(value, str):
        return [dict(role=role, content=value)]
    if not isinstance(value, list):
        raise RecordError(f'{name} is {json_type(value)}; {_EXPECTED}')
    if not value:
        raise RecordError(f'{name} is an empty list; {_EXPECTED}')
    messages = []
    for number, message in enumerate(value):
        where = f'{name}[{number}]'
        if not isinstance(message, dict):
            raise RecordError(
                f'{where} is {json_type(message)}; expected an object with '
                'role and content'
            )
        content = message.get('content')
        if isinstance(content, list):
            content = _join_parts(f'{where}.content', content)
        messages.append({**message, 'content': content})
    return messages


def _join_parts(where: str, parts: list) -> str:
    """Join the parts of a content; an image becomes an image slot."""
    texts = []
    for number, part in enumerate(parts):
        kind = part.get('type') if isinstance(part, dict) else None
        if kind == 'image':
            texts.append(IMAGE_HERE)
        elif kind == 'text' and isinstance(part.get('text'), str):
            texts.append(part['text'])
        else:
            raise RecordError(
                f'{where}[{number}] is no image and no text; expected '
                '{"type": "image"} or {"type": "text", "text": "..."}'
            )
    return ''.join(texts)
