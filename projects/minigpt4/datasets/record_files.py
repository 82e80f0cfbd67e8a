# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Files of stage 2's records: JSON or JSON lines to a list of values."""

import json
import os
import re
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from ..utils.errors import printable
from ..utils.file_types import HEAD_BYTES, archive_format, common_content
from ..utils.regular_files import read_regular

MAX_DEPTH = 50  # of nested lists and objects; what is deeper becomes null
_DIGITS = 300  # of an integer; Python refuses to read more than 4,300
# a record has one of these
RECORD_KEYS = (
    'conversations',
    'messages',
    'conversation',
    'caption',
    'question',
)
_LINES = ('.jsonl', '.ndjson')
_EXPECTED = 'expected a list of records, or {"annotations": [...]}'
_CONTENTS = {
    'empty': 'it is empty',
    'LFS pointer': (
        'it is a Git LFS pointer; run "git lfs pull" to get the file'
    ),
    'HTML': 'it is a page of HTML or XML; download the file itself',
    'zeros': 'it begins with zeros; download it again',
}
_UTF_8_MARK, _OTHER_MARKS = b'\xef\xbb\xbf', (b'\xff\xfe', b'\xfe\xff')
_OTHER_ENCODING = 'it is UTF-16 or UTF-32 text; save it as UTF-8'


class RecordFile(NamedTuple):
    """What a file holds.

    Attributes:
        records: The records as they are in the file, unchecked. A line of a
            JSON-lines file that cannot be read is an :class:`Unreadable`.
        file_names: The images of COCO's table by their id; an id that is
            there twice with different names has None. None without a table.
    """

    records: list
    file_names: dict[str, Any] | None


class Unreadable(NamedTuple):
    """A record that is not JSON.

    Attributes:
        reason: Why, which follows the number of the record.
    """

    reason: str


class RepeatedKey(dict):
    """A JSON object with a duplicate key.

    Attributes:
        key: That key.
    """

    key: str


def read_record_file(path: Path) -> RecordFile:
    """Read a file of records, as JSON or as JSON lines by its content.

    Args:
        path: The file, UTF-8 with or without a byte order mark.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: It is not a regular file, not JSON, or holds no records.
    """
    data = _parse_file(path, _decode(path))
    table = None
    if isinstance(data, dict):
        if isinstance(data, RepeatedKey):
            raise ValueError(
                f'{path} has the key {printable(data.key)!r} twice; expected '
                'it once.'
            )
        if any(key in data for key in RECORD_KEYS):
            data = [data]  # one line of JSON lines
        else:
            table = _file_names(data.get('images'))
            keys = ', '.join(printable(key) for key in list(data)[:9])
            found = f' (found an object with the keys {keys})' if keys else ''
            data = data.get('annotations')
            _refuse_instances(path, data)
            if not data or not isinstance(data, list):
                raise ValueError(
                    f'{path} holds no records; {_EXPECTED}{found}.'
                )
    if not data or not isinstance(data, list):
        raise ValueError(f'{path} holds no records; {_EXPECTED}.')
    return RecordFile(data, table)


def _decode(path: Path) -> str:
    """The text of a file."""
    try:
        data = read_regular(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f'{path} does not exist; expected the JSON file of the '
            'records; set data_root and ann_file of the dataset.'
        ) from error
    except OSError as error:
        raise OSError(
            f'{path} cannot be read ({os.strerror(error.errno or 0)}).'
        ) from error
    reason = _other_content(data)
    if not reason:
        try:
            return data.decode('utf-8-sig')
        except UnicodeDecodeError as error:
            reason = f'byte {error.start} is not UTF-8; save it as UTF-8'
    raise ValueError(f'{path} is no JSON file ({reason}).')


def _other_content(data: bytes) -> str:
    """What a file is instead of UTF-8 text, and what to do; '' if it is."""
    head = data[:HEAD_BYTES].removeprefix(_UTF_8_MARK).lstrip()
    if not head and data.removeprefix(_UTF_8_MARK).strip():
        return ''  # JSON after many blanks
    if found := common_content(head):
        return _CONTENTS['HTML' if found == 'XML' else found]
    if archive := archive_format(head):
        return f'it is a {archive} archive; unpack it'
    if head.startswith(b'PAR1'):
        return 'it is a Parquet file; write its rows as JSON'
    if head.startswith(b'<'):
        return _CONTENTS['HTML']
    if data.startswith(_OTHER_MARKS) or data[:4].count(0) in (2, 3):
        return _OTHER_ENCODING
    return ''


def _parse_file(path: Path, text: str) -> Any:
    """The value of a JSON file, or the list of a file of JSON lines."""
    try:
        return _parse(text)
    except ValueError as error:
        if values := _parse_values(text):
            return values
        lines = [line for line in text.split('\n') if line.strip()]
        if path.suffix.lower() in _LINES or any(
            isinstance(_parse_line(line), dict) for line in lines[:2]
        ):
            return [_parse_line(line) for line in lines]
        raise ValueError(
            f'{path} is no JSON file ({_reason(error, text)}).'
        ) from error


def _parse_line(line: str) -> Any:
    try:
        return _parse(line)
    except ValueError as error:
        return Unreadable(f'is no JSON ({_reason(error, line)})')


def _parse_values(text: str) -> list:
    """Objects that follow each other without commas; [] for anything else."""
    decoder = json.JSONDecoder(object_pairs_hook=_object, parse_int=_integer)
    values = []
    at = 0
    text = text.strip()
    while at < len(text):
        if text[at] != '{':
            return []
        try:
            value, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            return []
        values.append(value)
        while at < len(text) and text[at] in ' \t\r\n':
            at += 1
    return values


def _parse(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_object, parse_int=_integer)
    except RecursionError:
        text = _without_depth(text)
    try:
        return json.loads(text, object_pairs_hook=_object, parse_int=_integer)
    except ValueError as error:
        raise ValueError(
            f'it has lists or objects that are nested more than {MAX_DEPTH} '
            'levels deep and are not closed'
        ) from error


def _object(pairs: list[tuple[str, Any]]) -> dict:
    value = dict(pairs)
    if len(value) == len(pairs):
        return value
    repeated = RepeatedKey(value)
    counts = Counter(key for key, _ in pairs)
    repeated.key = next(key for key in value if counts[key] > 1)
    return repeated


def _integer(digits: str) -> 'int | float':
    return int(digits) if len(digits) < _DIGITS else float(digits)


def _without_depth(text: str) -> str:
    """JSON in which what is nested too deeply is null."""
    kept = []
    depth = start = 0
    for found in re.finditer(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', text):
        if found[0] in '[{':
            depth += 1
            if depth == MAX_DEPTH + 1:
                kept.append(text[start : found.start()])
        elif found[0] in ']}':
            if depth == MAX_DEPTH + 1:
                kept.append('null')
                start = found.end()
            depth -= 1
    return ''.join(kept) + (text[start:] if depth <= MAX_DEPTH else '')


def _reason(error: ValueError, text: str) -> str:
    if not isinstance(error, json.JSONDecodeError):
        return printable(str(error))
    before = text[: error.pos].rstrip()
    hint = ''
    if before.endswith(',') and text[error.pos : error.pos + 1] in (']', '}'):
        hint = '; there is a comma after the last entry, remove it'
    elif before.endswith(',') and error.msg.startswith('Illegal trailing'):
        hint = '; remove the comma'
    elif error.pos >= len(text.rstrip()):
        hint = '; the file ends too early, download it again'
    return f'line {error.lineno}, column {error.colno}: {error.msg}{hint}'


def _file_names(images: Any) -> dict[str, Any] | None:
    """COCO's table of images."""
    if not isinstance(images, list):
        return None
    names: dict[str, Any] = {}
    for image in images:
        if isinstance(image, dict) and 'id' in image:
            key, name = str(image['id']), image.get('file_name')
            if names.setdefault(key, name) != name:
                names[key] = None
    return names


def _refuse_instances(path: Path, annotations: Any) -> None:
    if not isinstance(annotations, list) or not annotations:
        return
    first = annotations[0]
    if (
        isinstance(first, dict)
        and not any(key in first for key in RECORD_KEYS)
        and any(key in first for key in ('bbox', 'segmentation', 'keypoints'))
    ):
        raise ValueError(
            f'{path} holds boxes or outlines of objects (an instances file of '
            'COCO), no texts; use captions_*.json.'
        )
