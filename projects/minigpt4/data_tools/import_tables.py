# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Read tables of images and texts: CSV, TSV, JSON lines, JSON."""

from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from ..datasets.caption_files import (
    TableHeader,
    is_image_cell,
    read_header,
    table_lines,
    table_rows,
)
from ..datasets.json_stream import stream_json
from ..datasets.json_values import DuplicateKey
from ..datasets.parse_records import IMAGE_KEYS
from ..datasets.record_files import RECORD_KEYS
from ..datasets.text_stream import DAMAGED, open_text
from ..utils.errors import printable
from .import_items import Item, ReadOptions, invalid_item

# names of columns, in lower case, the most specific first
IMAGE_COLUMNS = (
    *('image', 'images', 'image_id', *IMAGE_KEYS),
    *('filepath', 'file', 'path', 'image_url', 'url', 'photo', 'id'),
)
TEXT_COLUMNS = (
    *('caption', 'text', 'description', 'captions', 'top_caption'),
    *('comment', 'sentence', 'sentences', 'alt_text', 'title'),
)


def read_csv(path: Path, options: ReadOptions) -> Iterator[Item]:
    """Read CSV and TSV with a header, or two columns without one.

    Raises:
        ValueError: No column of images or of texts is found.
    """
    with open_text(path) as file:
        lines = table_lines(file)
        header = read_header(lines)
        start = header.number + 1
        found = header.split(lambda names: _has_columns(names, options))
        if found is None and (options.image_column or options.text_column):
            found = header.split(lambda names: True)
        if found is None:
            found = _without_header(path, header)
            lines = chain([header.line], lines)
            start = header.number
        separator, columns = found
        image, text = column_names_of(columns, options, path)
        number = start - 1
        try:
            for row in table_rows(lines, separator, columns, start, text):
                number = row.line
                record = None
                if not row.problem:
                    record = rename(row.cells, image, text)
                yield Item(path, number, record, row.problem, 'line')
        except (ValueError, *DAMAGED) as error:
            reason = f'cannot be read ({error}); the rest is not read'
            yield Item(path, number + 1, None, reason, 'line')


def _has_columns(names: list[str], options: ReadOptions) -> bool:
    image, text = find_columns(names, options)
    return image is not None and (text is not None or 'question' in names)


def _without_header(path: Path, header: TableHeader) -> tuple[str, list[str]]:
    """The separator and columns of a table whose first line is a row.

    As Conceptual Captions are published: a text, and the URL or the name of
    the image, in any order.

    Raises:
        ValueError: The line has no image.
    """
    found = header.split(
        lambda cells: len(cells) == 2 and sum(map(is_image_cell, cells)) == 1
    )
    if found is None:
        raise ValueError(
            f'{path} has no columns of images and texts in its first line '
            f'({printable(header.line.strip())[:80]!r}); expected a header '
            'such as image,caption, or name the columns with --image-column '
            'and --text-column.'
        )
    separator, cells = found
    first_is_image = is_image_cell(cells[0])
    return separator, (
        ['image', 'caption'] if first_is_image else ['caption', 'image']
    )


def find_columns(
    names: Iterable[str], options: ReadOptions
) -> tuple[str | None, str | None]:
    """The columns of the image and of the text.

    Args:
        names: The columns.
        options: May name the columns.

    Returns:
        Names as they are in ``names``; None where there is none.
    """
    by_name = {name.strip().lower(): name for name in names}

    def find(named: str | None, known: tuple[str, ...]) -> str | None:
        if named is not None:
            return by_name.get(named.strip().lower())
        return next((by_name[k] for k in known if k in by_name), None)

    return (
        find(options.image_column, IMAGE_COLUMNS),
        find(options.text_column, TEXT_COLUMNS),
    )


def column_names_of(
    names: list[str], options: ReadOptions, path: Path
) -> tuple[str, str | None]:
    """The columns of the image and of the text; the text may be a question.

    Raises:
        ValueError: One of them is missing.
    """
    image, text = find_columns(names, options)
    given = (options.image_column, options.text_column)
    has_record = any(key in names for key in RECORD_KEYS)
    for kind, column, name in zip(('image', 'text'), (image, text), given):
        if column is None and (name or kind == 'image' or not has_record):
            missing = repr(name) if name else f'that is known as the {kind}'
            raise ValueError(
                f'{path} has no column {missing}; name it with '
                f'--{kind}-column (its columns: '
                f'{printable(", ".join(names[:20]))}).'
            )
    assert image is not None
    return image, None if has_record and not given[1] else text


def rename(cells: dict, image: str, text: str | None) -> dict:
    """A row as a record: ``image`` and ``caption`` by their own names."""
    record = dict(cells)
    if image != 'image':
        record['image'] = record.pop(image, None)
    if text is not None and text != 'caption':
        record['caption'] = record.pop(text, None)
    record.pop('captions', None)
    return record


def texts_of(record: dict) -> Iterator[dict]:
    """Split a record with a list of captions into a record for each."""
    caption = record.get('caption')
    if not isinstance(caption, list):
        yield record
        return
    for text in caption:
        yield {**record, 'caption': text}


def read_json_table(path: Path, options: ReadOptions) -> Iterator[Item]:
    """Read JSON or JSON lines of objects with an image and a text."""
    for entry in stream_json(path):
        if entry.key not in (None, 'annotations', 'data', 'images'):
            continue
        if invalid := invalid_item(path, entry):
            yield invalid
            continue
        unit = 'line' if entry.is_line else 'record'
        value = entry.value
        if isinstance(value, DuplicateKey):
            yield Item(path, entry.number, value, unit=unit)
            continue
        try:
            names = column_names_of(list(value), options, path)
        except ValueError as error:
            reason = str(error).removeprefix(f'{path} ').rstrip('.')
            yield Item(path, entry.number, None, reason, unit)
            continue
        for record in texts_of(rename(value, *names)):
            yield Item(path, entry.number, record, unit=unit)
