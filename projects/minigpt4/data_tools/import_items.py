# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""What the readers of ``minigpt4 data import`` return, and their options."""

from pathlib import Path
from typing import NamedTuple

from ..datasets.json_stream import Entry
from ..datasets.json_values import InvalidJson


class Item(NamedTuple):
    """A record of a source, or why it cannot be read.

    Attributes:
        file: The file.
        number: Number of the record in the file, from 1; 0 for the file.
        record: The record in a layout of stage 2 (see
            :mod:`~minigpt4.datasets.parse_records`); None if it cannot be
            read.
        problem: Why it cannot be read, as a phrase that follows the place.
        unit: What is counted: ``'record'``, ``'line'`` or ``'row'``.
        image: The encoded image, if the source contains it; its name is the
            ``image`` of the record.
    """

    file: Path
    number: int
    record: dict | None = None
    problem: str = ''
    unit: str = 'record'
    image: bytes | None = None

    @property
    def place(self) -> str:
        """The file, and the number of the record or line in it."""
        if not self.number:
            return str(self.file)
        return f'{self.file}, {self.unit} {self.number}'


class ReadOptions(NamedTuple):
    """How sources are read.

    Attributes:
        image_column: The column or key of the image; None to recognise it.
        text_column: The column or key of the text; None to recognise it.
        questions: The file of the questions, for VQA annotations.
        objects: COCO's instances file, whose classes are added to records.
        whole_files: Whether a text file is one text, instead of one text in
            each line.
    """

    image_column: str | None = None
    text_column: str | None = None
    questions: Path | None = None
    objects: Path | None = None
    whole_files: bool = False


def invalid_item(path: Path, entry: Entry) -> Item | None:
    """The item of an entry that is not an object; None for an object."""
    unit = 'line' if entry.is_line else 'record'
    if isinstance(entry.value, dict):
        return None
    if isinstance(entry.value, InvalidJson):
        return Item(path, entry.number, None, entry.value.reason, unit)
    return Item(path, entry.number, None, 'is not an object', unit)
