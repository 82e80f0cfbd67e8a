# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""What a file of questions contains, in words, for errors."""

import json
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from ..datasets.json_stream import stream_json
from ..datasets.json_values import InvalidJson
from ..datasets.text_stream import open_text
from ..utils.errors import printable

VQA_ANNOTATIONS = 'the annotations of VQAv2 or OK-VQA'
VQA_QUESTIONS = 'the questions of VQAv2 or OK-VQA, without answers'
AOKVQA, GQA, POPE = 'the questions of A-OKVQA', 'GQA', 'the questions of POPE'
_MAX_KEYS = 20  # of an object; the others are counted only
_SMALL = 1 << 16  # characters of a file that may have empty lists only
_NAMED = 5


class FileContent(NamedTuple):
    """What a JSON file contains.

    Attributes:
        first: The first value of each key of the object in the file, of the
            first keys; ``None`` is the key of a list or of lines.
        counts: Number of values of each key; 0 for an empty list.
        lists: The keys whose value is a list.
    """

    first: dict[str | None, Any]
    counts: Counter[str | None]
    lists: set[str | None]

    @property
    def kind(self) -> str:
        """The data set that the file is of; '' if it is not recognised."""
        annotation = _record(self.first.get('annotations'))
        if 'answers' in annotation or 'question_id' in annotation:
            return VQA_ANNOTATIONS
        if 'caption' in annotation:
            return 'the captions of COCO'
        if 'bbox' in annotation or 'segmentation' in annotation:
            return 'the instances of COCO'
        question = _record(self.first.get('questions'))
        if 'question' in question and 'imageId' not in question:
            return VQA_QUESTIONS
        record = _record(next(iter(self.first.values()), None))
        if 'choices' in record or 'direct_answers' in record:
            return AOKVQA
        if 'imageId' in record:
            return GQA
        if 'label' in record:
            return POPE
        if 'answers' in record:
            return VQA_ANNOTATIONS
        if 'answer' in record and 'question' not in record:
            return 'answers of a model'
        return ''

    @property
    def has_records_by_id(self) -> bool:
        """Whether it is an object of objects, without a list."""
        return bool(self.first) and all(
            key not in self.lists and isinstance(value, dict)
            for key, value in self.first.items()
        )

    def describe(self) -> str:
        """What the file contains, as a phrase that follows its name."""
        if not self.counts:
            return 'is empty: it has no record'
        if None in self.counts:
            number = self.counts[None]
            if not number:
                return 'is an empty list'
            keys = _names(_record(self.first[None]))
            records = 'record' if number == 1 else 'records'
            return f'has {number:,} {records}' + (
                f' with the keys {keys}' if keys else ''
            )
        names = _names(self.counts)
        more = len(self.counts) - _NAMED
        if more > 0:
            names += f' and {more:,} more'
        empty = [key for key, number in self.counts.items() if not number]
        if len(empty) == len(self.counts):
            return f'has an empty list under {names}'
        if empty:
            return (
                f'has the keys {names}, and an empty list under '
                f'{_names(empty)}'
            )
        if self.has_records_by_id:
            return f'is an object of records by id, with the keys {names}'
        return f'has the keys {names}'


def read_content(path: Path) -> FileContent:
    """Read what a JSON file contains.

    Raises:
        ValueError: The file is not a regular file or no text.
        OSError: The file cannot be read.
    """
    first: dict[str | None, Any] = {}
    counts: Counter[str | None] = Counter()
    lists: set[str | None] = set()
    for entry in stream_json(path):
        if isinstance(entry.value, InvalidJson):
            continue
        counts[entry.key] += 1
        if entry.in_list:
            lists.add(entry.key)
        if len(first) < _MAX_KEYS:
            first.setdefault(entry.key, entry.value)
    for key in _empty_lists(path):
        counts.setdefault(key, 0)
        lists.add(key)
    return FileContent(first, counts, lists)


def _empty_lists(path: Path) -> list[str | None]:
    """Keys of the empty lists of a small file, which gives no value."""
    with open_text(path) as file:
        text = file.read(_SMALL)
        if file.read(1):
            return []
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return []
    if content == []:
        return [None]
    if not isinstance(content, dict):
        return []
    return [key for key, value in content.items() if value == []]


def _record(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _names(keys: Any) -> str:
    """The first keys in quotation marks."""
    return ', '.join(
        f'"{printable(str(key))[:40]}"' for key in [*keys][:_NAMED]
    )
