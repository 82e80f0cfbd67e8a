# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Parse JSON of users: duplicate keys, huge numbers, deep nesting, errors."""

import json
import re
from collections import Counter
from typing import Any, NamedTuple

from ..utils.errors import printable

# of lists and objects; deeper values become null
MAX_DEPTH = 50
# a longer integer becomes a float; Python refuses more than 4,300 digits
_MAX_DIGITS = 300


class InvalidJson(NamedTuple):
    """A line that is not JSON.

    Attributes:
        reason: The error, as a phrase that follows the number of the record.
    """

    reason: str


class DuplicateKey(dict):
    """A JSON object with a duplicate key.

    Attributes:
        key: The duplicate key.
    """

    key: str


def _object(pairs: list[tuple[str, Any]]) -> dict:
    value = dict(pairs)
    if len(value) == len(pairs):
        return value
    duplicate = DuplicateKey(value)
    counts = Counter(key for key, _ in pairs)
    duplicate.key = next(key for key in value if counts[key] > 1)
    return duplicate


def _integer(digits: str) -> 'int | float':
    return int(digits) if len(digits) < _MAX_DIGITS else float(digits)


# json.loads refuses a byte order mark, which the readers remove
DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_int=_integer)


def parse_json(text: str) -> Any:
    """Parse JSON; an object with a duplicate key is a :class:`DuplicateKey`.

    Raises:
        ValueError: The text is not JSON.
    """
    try:
        return DECODER.decode(text)
    except RecursionError:
        text = _replace_deep_values(text)
    try:
        return DECODER.decode(text)
    except ValueError as error:
        raise ValueError(
            f'it has lists or objects that are nested more than {MAX_DEPTH} '
            'levels deep and are not closed'
        ) from error


def _replace_deep_values(text: str) -> str:
    """Replace the values of JSON that are nested too deeply by null."""
    parts = []
    depth = start = 0
    for found in re.finditer(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', text):
        if found[0] in '[{':
            depth += 1
            if depth == MAX_DEPTH + 1:
                parts.append(text[start : found.start()])
        elif found[0] in ']}':
            if depth == MAX_DEPTH + 1:
                parts.append('null')
                start = found.end()
            depth -= 1
    return ''.join(parts) + (text[start:] if depth <= MAX_DEPTH else '')


def describe_error(error: ValueError, text: str) -> str:
    """Describe a JSON error and its repair."""
    if not isinstance(error, json.JSONDecodeError):
        return printable(str(error))
    before = text[: error.pos].rstrip()
    if before.endswith(',') and text[error.pos : error.pos + 1] in (']', '}'):
        hint = '; there is a comma after the last entry, remove it'
    elif before.endswith(',') and error.msg.startswith('Illegal trailing'):
        hint = '; remove the comma'
    elif error.pos >= len(text.rstrip()):
        hint = '; the file ends too early, download it again'
    else:
        hint = '; correct it there'
    return f'line {error.lineno}, column {error.colno}: {error.msg}{hint}'


def parse_line(line: str) -> Any:
    """Parse a line; an :class:`InvalidJson` for one that is no JSON."""
    try:
        return parse_json(line)
    except ValueError as error:
        return InvalidJson(f'is no JSON ({describe_error(error, line)})')
