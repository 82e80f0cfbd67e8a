# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Read the records of a dataset: JSON, JSON lines, a table, text files."""

import os
from pathlib import Path
from typing import Any, NamedTuple

from ..utils.errors import printable
from ..utils.ids import id_key_or_none
from ..utils.regular_files import read_regular
from ..utils.text_files import content_error
from .caption_files import (
    TABLE_SUFFIXES,
    read_caption_folder,
    read_caption_table,
)
from .json_values import (
    DECODER,
    DuplicateKey,
    describe_error,
    parse_json,
    parse_line,
)

# a record has one of these keys
RECORD_KEYS = (
    'conversations',
    'messages',
    'conversation',
    'caption',
    'question',
)
_PAIR_KEY = 'chosen'  # of a record with two answers
LINES_SUFFIXES = ('.jsonl', '.ndjson')
_EXPECTED = 'expected a list of records, or {"annotations": [...]}'


class RecordFile(NamedTuple):
    """The content of a file of records.

    Attributes:
        records: The unchecked records. A line of a JSON-lines file that is
            not JSON is an :class:`InvalidJson`.
        file_names: File names of the images in COCO's table by image id;
            None for an id with two different names. None without a table.
    """

    records: list
    file_names: dict[str, Any] | None


def read_record_file(path: Path) -> RecordFile:
    """Read a file of records; its content decides on JSON or JSON lines.

    Args:
        path: The file, UTF-8 with or without a byte order mark; or a table
            or a folder of :mod:`.caption_files`.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is not a regular file, not JSON, or has no
            records.
    """
    if path.is_dir() or path.suffix.lower() in TABLE_SUFFIXES:
        return RecordFile(_read_captions(path), None)
    data = _parse_file(path, _read_text(path))
    file_names = None
    if isinstance(data, dict):
        if isinstance(data, DuplicateKey):
            raise ValueError(
                f'{path} has the key {printable(data.key)!r} twice; expected '
                'it once.'
            )
        if any(key in data for key in (*RECORD_KEYS, _PAIR_KEY)):
            data = [data]  # JSON lines with one line
        else:
            file_names = image_file_names(data.get('images'))
            keys = ', '.join(printable(key) for key in list(data)[:9])
            found = f' (found an object with the keys {keys})' if keys else ''
            data = data.get('annotations')
            _refuse_instances(path, data)
            if not data or not isinstance(data, list):
                raise ValueError(f'{path} has no records; {_EXPECTED}{found}.')
    if not data or not isinstance(data, list):
        raise ValueError(f'{path} has no records; {_EXPECTED}.')
    return RecordFile(data, file_names)


def _read_captions(path: Path) -> list:
    """Read a table, or the text files of a folder."""
    records: list
    if path.is_dir():
        records = read_caption_folder(path)
        expected = 'a text file next to each image, such as cat.txt of cat.jpg'
    else:
        if not path.exists():
            raise FileNotFoundError(
                f'{path} does not exist; expected a table with the columns '
                'image and caption.'
            )
        records = read_caption_table(path)
        expected = 'a line for each image and caption'
    if not records:
        raise ValueError(f'{path} has no captions; expected {expected}.')
    return records


def _read_text(path: Path) -> str:
    """Read and decode a file."""
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
    reason = content_error(data)
    if not reason:
        try:
            return data.decode('utf-8-sig')
        except UnicodeDecodeError as error:
            reason = f'byte {error.start} is not UTF-8; save it as UTF-8'
    raise ValueError(f'{path} is no JSON file ({reason}).')


def _parse_file(path: Path, text: str) -> Any:
    """Parse JSON, or JSON lines as a list."""
    try:
        return parse_json(text)
    except ValueError as error:
        if objects := _parse_objects(text):
            return objects
        lines = [line for line in text.split('\n') if line.strip()]
        if path.suffix.lower() in LINES_SUFFIXES or any(
            isinstance(parse_line(line), dict) for line in lines[:2]
        ):
            return [parse_line(line) for line in lines]
        raise ValueError(
            f'{path} is no JSON file ({describe_error(error, text)}).'
        ) from error


def _parse_objects(text: str) -> list:
    """Parse a sequence of objects without commas; [] for anything else."""
    objects = []
    offset = 0
    text = text.strip()
    while offset < len(text):
        if text[offset] != '{':
            return []
        try:
            value, offset = DECODER.raw_decode(text, offset)
        except (ValueError, RecursionError):
            return []
        objects.append(value)
        while offset < len(text) and text[offset] in ' \t\r\n':
            offset += 1
    return objects


def image_file_names(images: Any) -> dict[str, Any] | None:
    """Return the file names in COCO's table of images by image id."""
    if not isinstance(images, list):
        return None
    names: dict[str, Any] = {}
    for image in images:
        key = id_key_or_none(image['id']) if _has_id(image) else None
        if key is not None:
            name = image.get('file_name')
            if names.setdefault(key, name) != name:
                names[key] = None  # two files have this id
    return names


def _has_id(image: Any) -> bool:
    return isinstance(image, dict) and 'id' in image


def _refuse_instances(path: Path, annotations: Any) -> None:
    """Refuse the instances file of COCO, which has no texts."""
    if not isinstance(annotations, list) or not annotations:
        return
    first = annotations[0]
    if (
        isinstance(first, dict)
        and not any(key in first for key in RECORD_KEYS)
        and any(key in first for key in ('bbox', 'segmentation', 'keypoints'))
    ):
        raise ValueError(
            f'{path} contains boxes or outlines of objects (an instances file '
            'of COCO), no texts; use captions_*.json.'
        )
