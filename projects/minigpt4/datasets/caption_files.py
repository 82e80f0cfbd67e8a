# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Captions as users have them: tables, and text files next to images.

- A table (``.csv``, ``.tsv``): a header with a column of image names
  (``image``, ``file_name`` ...) and one of ``caption``, or ``question`` and
  ``answer``. The separator is a comma, semicolon, tab or ``|``.
- A folder: for each image ``cat.jpg`` a text file ``cat.txt``, or
  ``cat.caption``, with one caption in each line.
"""

import csv
import io
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..images.formats import SUFFIXES
from ..utils.errors import printable
from ..utils.regular_files import read_text

TABLE_SUFFIXES = ('.csv', '.tsv')
TEXT_SUFFIXES = ('.txt', '.caption')
SEPARATORS = ',;\t|'
_MAX_CELL_CHARACTERS = 1 << 26
_TEXT_COLUMNS = ('caption', 'question')


class TableRow(NamedTuple):
    """A row of a table.

    Attributes:
        line: Number of its last line in the file, from 1.
        cells: The cells that are not empty, by column.
        num_cells: Number of cells in the row.
    """

    line: int
    cells: dict[str, str]
    num_cells: int


def table_rows(
    lines: Iterable[str],
    path: Path,
    separator: str,
    columns: Sequence[str] | None = None,
) -> Iterator[TableRow]:
    """Yield the rows of a table that are not empty.

    Args:
        lines: The lines, with their ends.
        path: The file, for errors.
        separator: Between two cells.
        columns: Names of the columns; None if the first line has them.

    Raises:
        ValueError: A row cannot be read, e.g. a quotation mark is missing.
    """
    # a description may be longer than the default of 128 KiB
    csv.field_size_limit(max(csv.field_size_limit(), _MAX_CELL_CHARACTERS))
    reader = csv.reader(lines, delimiter=separator)
    if columns is None:
        columns = column_names(next(reader, []))
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                cells = zip(columns, row)
                yield TableRow(
                    reader.line_num,
                    {k: v for k, v in cells if k and v.strip()},
                    len(row),
                )
    except csv.Error as error:
        raise ValueError(
            f'{path} cannot be read as a table (line {reader.line_num}: '
            f'{error}); repair the line.'
        ) from error


def column_names(cells: Iterable[str]) -> list[str]:
    """Names of columns from the cells of the first line, in lower case."""
    return [cell.strip().lower() for cell in cells]


def split_header(
    header: str, accept: Callable[[list[str]], bool]
) -> tuple[str, list[str]] | None:
    """Find the separator of a table.

    Args:
        header: The first line.
        accept: Whether the cells of the line, in lower case, are right.

    Returns:
        The separator and the cells of the line; None if no separator gives
        two cells or more that are accepted.
    """
    for separator in SEPARATORS:
        names = next(csv.reader([header], delimiter=separator), [])
        columns = column_names(names)
        if len(columns) > 1 and accept(columns):
            return separator, columns
    return None


def read_caption_table(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a table as unchecked records.

    Names of columns become lower case; empty cells are omitted.

    Raises:
        ValueError: The file is not UTF-8, or its header has no text column.
        OSError: The file cannot be read.
    """
    text = read_text(path)
    header = text.partition('\n')[0]
    found = split_header(
        header, lambda names: any(name in names for name in _TEXT_COLUMNS)
    )
    if found is None:
        raise ValueError(
            f'{path} has no column caption in its first line '
            f'({printable(header.strip())[:80]!r}); expected a header such as '
            'image,caption.'
        )
    lines = io.StringIO(text, newline='')
    return [row.cells for row in table_rows(lines, path, found[0])]


class CaptionedImage(NamedTuple):
    """An image of a folder, and its text file.

    Attributes:
        image: The path of the image below the folder.
        text: The file of the text; None if there is none.
    """

    image: str
    text: Path | None


def captioned_images(folder: Path) -> Iterator[CaptionedImage]:
    """Yield the images of a folder and its subfolders, with their texts.

    The suffixes of both may be in capitals. Hidden files are not used.
    """
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name[0] != '.')
        texts: dict[tuple[str, str], str] = {}
        for name in sorted(names, reverse=True):  # a.txt before a.TXT
            stem, suffix = os.path.splitext(name)
            texts[stem, suffix.lower()] = name
        for name in sorted(names):
            stem, suffix = os.path.splitext(name)
            if suffix.lower() not in SUFFIXES or name.startswith('.'):
                continue
            file = next(
                (texts[stem, s] for s in TEXT_SUFFIXES if (stem, s) in texts),
                None,
            )
            yield CaptionedImage(
                Path(parent, name).relative_to(folder).as_posix(),
                None if file is None else Path(parent, file),
            )


def read_caption_folder(folder: Path) -> list[dict[str, Any]]:
    """Read the text files next to the images of a folder and its subfolders.

    Returns:
        A record for each line of text, with the path of the image below the
        folder. Images without a text file, and hidden files, are not used.

    Raises:
        ValueError: A text file is not UTF-8.
        OSError: A file cannot be read.
    """
    return [
        dict(image=image, caption=line.strip())
        for image, text in captioned_images(folder)
        if text is not None
        for line in read_text(text).splitlines()
        if line.strip()
    ]
