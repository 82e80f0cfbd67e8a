# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Read JSON files of which every value counts: nothing is taken silently.

A key that an object has twice, NaN, infinity and a number that no program
reads exactly are errors. :mod:`minigpt4.datasets.json_values` accepts them,
for data of which single records may be skipped.
"""

import json
import os
from collections.abc import Iterator
from math import isfinite
from pathlib import Path
from typing import Any

from .errors import printable, short_json
from .regular_files import read_regular
from .text_files import content_error, decode_utf8

# a longer number is damage; Python refuses more than 4,300 digits
_MAX_DIGITS = 300


class InvalidJsonError(ValueError):
    """A text is no JSON, or has a value that is refused."""


class DuplicateKeyError(InvalidJsonError):
    """An object of JSON has a key twice."""


def parse_strict_json(text: str) -> Any:
    """Parse JSON.

    Raises:
        InvalidJsonError: The text is not JSON, an object has a key twice, or
            a number is not finite or has too many digits. The message is a
            phrase; that of a :class:`DuplicateKeyError` follows the name of
            the file.
    """
    try:
        return _DECODER.decode(text)
    except InvalidJsonError:
        raise
    except RecursionError as error:
        raise InvalidJsonError('it is nested too deeply') from error
    except json.JSONDecodeError as error:
        place = f'line {error.lineno}, column {error.colno}'
        at_end = error.pos >= len(text.rstrip()) or error.msg.startswith(
            'Unterminated'
        )
        raise InvalidJsonError(
            f'{place}: {printable(error.msg)}'
            + ('; the file may be cut' if at_end else '')
        ) from error


def read_json(path: 'str | os.PathLike', expected: str) -> Any:
    """Read a JSON file, UTF-8 with or without a byte order mark.

    Args:
        path: The file.
        expected: What it has to contain, for the error, such as ``'a list of
            captions'``.

    Raises:
        ValueError: The file is not a regular file, not UTF-8 or not JSON; see
            :func:`parse_strict_json`.
        OSError: The file is missing or cannot be read.
    """
    data = read_regular(path)
    reason = content_error(data)
    if not reason:
        text = decode_utf8(data, path)
        try:
            return parse_strict_json(text)
        except DuplicateKeyError as error:
            raise ValueError(f'{Path(path)} {error}.') from error
        except InvalidJsonError as error:
            reason = str(error)
    raise ValueError(
        f'{Path(path)} is not JSON ({reason}); expected {expected}.'
    )


def read_json_lines(path: 'str | os.PathLike') -> Iterator[tuple[int, Any]]:
    """Yield number and value of each line of a JSON-lines file.

    Lines without text are passed over.

    Raises:
        ValueError: A line is not JSON, or the file is not UTF-8; see
            :func:`parse_strict_json`.
        OSError: The file cannot be read.
    """
    data = read_regular(path)
    if data.strip() and (reason := content_error(data)):
        raise ValueError(
            f'{Path(path)} is not JSON ({reason}); expected one object a line.'
        )
    for number, line in enumerate(data.splitlines(), 1):
        if not line.strip():
            continue
        try:
            value = parse_strict_json(line.decode('utf-8-sig'))
        except UnicodeDecodeError as error:
            raise ValueError(
                f'{Path(path)} is not UTF-8 text (byte {error.start} of line '
                f'{number} is not UTF-8); save it as UTF-8.'
            ) from error
        except DuplicateKeyError as error:
            raise ValueError(
                f'{Path(path)}: line {number} {error}.'
            ) from error
        except InvalidJsonError as error:
            reason = str(error).removeprefix('line 1, ')
            raise ValueError(
                f'{Path(path)}: line {number} is not JSON ({reason}); '
                'expected one object a line.'
            ) from error
        yield number, value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) == len(pairs):
        return value
    seen = set()
    for key, _ in pairs:
        if key in seen:
            raise DuplicateKeyError(
                f'has the key {short_json(key)} twice; expected it once'
            )
        seen.add(key)
    raise AssertionError('no key occurs twice')


def _integer(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise InvalidJsonError(f'it has a number of {len(digits):,} digits')
    return int(digits)


def _float(digits: str) -> float:
    value = float(digits)
    if not isfinite(value):
        raise InvalidJsonError(
            f'the number {digits[:20]} is larger than any that is read'
        )
    return value


def _refuse_constant(name: str) -> None:
    """Refuse NaN and infinity, which JSON does not have."""
    raise InvalidJsonError(f'{name} is no number of JSON')


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object,
    parse_int=_integer,
    parse_float=_float,
    parse_constant=_refuse_constant,
)
