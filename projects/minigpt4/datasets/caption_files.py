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
from ..utils.text_files import read_text
from .json_values import InvalidJson

TABLE_SUFFIXES = ('.csv', '.tsv')
TEXT_SUFFIXES = ('.txt', '.caption')
SEPARATORS = ',;\t|'
_MAX_CELL_CHARACTERS = 1 << 26
# what pandas and other programs write for an empty cell
_NO_TEXT = ('NaN', 'nan', 'NULL', 'null', 'None', '<NA>')
_TEXT_COLUMNS = ('caption', 'question')


class TableRow(NamedTuple):
    """A row of a table.

    Attributes:
        line: Number of its first line in the file, from 1.
        cells: The cells that are not empty, by column.
        problem: Why the row cannot be used, as a phrase that follows its
            place; '' for a row that can. It has no cells then.
    """

    line: int
    cells: dict[str, str]
    problem: str = ''


class _Lines:
    """The lines of a table; those of the last row can be read again.

    Attributes:
        taken: The lines that were read since the list was last emptied.
        number: Number of the last line that was read.
    """

    def __init__(self, lines: Iterator[str], number: int) -> None:
        self._lines = lines
        self._again: list[str] = []  # the next line is the last of the list
        self.taken: list[str] = []
        self.number = number

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._again.pop() if self._again else next(self._lines)
        self.taken.append(line)
        self.number += 1
        return line

    def keep_first(self) -> None:
        """Give all lines after the first of ``taken`` again."""
        again = self.taken[1:]
        self._again += again[::-1]
        self.number -= len(again)


def table_lines(lines: Iterable[str]) -> Iterator[str]:
    """Yield the lines of a table, which may end with a carriage return."""
    for line in lines:
        if line.count('\r') > line.endswith(('\r', '\r\n')):
            yield from io.StringIO(line, newline='')
        else:
            yield line


def table_rows(
    lines: Iterator[str],
    separator: str,
    columns: Sequence[str],
    start: int,
    text_column: str | None = None,
) -> Iterator[TableRow]:
    """Yield the rows of a table that are not empty.

    A row that cannot be used has a ``problem``. After a quotation mark that
    is not closed the rows are read from the next line on.

    Args:
        lines: The lines of :func:`table_lines` after the header.
        separator: Between two cells.
        columns: Names of the columns, in lower case.
        start: Number of the first line in the file, from 1.
        text_column: The column that every row must have a text in; None for
            ``caption``, in a table without questions.
    """
    if text_column is None and 'question' not in columns:
        text_column = 'caption'
    # a description may be longer than the default of 128 KiB
    csv.field_size_limit(max(csv.field_size_limit(), _MAX_CELL_CHARACTERS))
    source = _Lines(lines, start - 1)
    reader = csv.reader(source, delimiter=separator)
    while True:
        source.taken = []
        number = source.number + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            source.keep_first()
            problem = f'cannot be read as a row of a table ({error})'
            yield TableRow(number, {}, problem)
            continue
        if not any(cell.strip() for cell in row):
            continue
        cells = {k: v for k, v in zip(columns, row) if k and v.strip()}
        problem = ''
        if _is_open(source.taken, separator, len(columns)):
            source.keep_first()
            problem = (
                'has a quotation mark that is not closed; close it at the '
                'end of the cell, or remove it'
            )
        elif len(row) > len(columns):
            problem = (
                f'has {len(row)} cells, the header has {len(columns)}; put '
                f'texts with the separator {separator!r} in quotation marks'
            )
        elif text_column is not None and text_column in columns:
            problem = _text_problem(cells.get(text_column, ''), text_column)
        yield TableRow(number, {} if problem else cells, problem)


def _text_problem(cell: str, column: str) -> str:
    """Why a cell has no text; '' if it has one."""
    if not cell:
        return f'has an empty cell in the column {column}; expected a text'
    if cell.strip() in _NO_TEXT:
        return (
            f'has {cell.strip()!r} in the column {column}, which is written '
            'for an empty cell; expected a text'
        )
    return ''


def _is_open(lines: Sequence[str], separator: str, num_cells: int) -> bool:
    """Whether a quotation mark of a row is not closed.

    Then the next quotation mark closes the cell, and text follows it; or the
    file ends. If it is at the end of a cell by chance, the lines have names
    of images at the same place, as rows have.
    """
    if len(lines) == 1 and lines[0].count('"') % 2 == 0:
        return False
    try:
        for _ in csv.reader(lines, delimiter=separator, strict=True):
            pass
    except csv.Error:
        return True
    images = None
    for line in lines:
        cells = next(csv.reader([line], delimiter=separator), [])
        found = {i for i, cell in enumerate(cells) if is_image_cell(cell)}
        if images is None:
            images = found
        elif len(cells) == num_cells and images & found:
            return True
    return False


def is_image_cell(cell: str) -> bool:
    """Whether a cell is the name of an image file, or a URL."""
    cell = cell.strip()
    suffix = os.path.splitext(cell)[1].lower()
    is_name = suffix in SUFFIXES and not set(cell) & set('\t\n')
    return cell.lower().startswith(('http://', 'https://')) or is_name


def column_names(cells: Iterable[str]) -> list[str]:
    """Names of columns from the cells of the first line, in lower case."""
    return [cell.strip().lower() for cell in cells]


class TableHeader(NamedTuple):
    """The first lines of a table.

    Attributes:
        line: The line of the names of the columns.
        number: Its number in the file, from 1.
        separators: Those that are tried.
    """

    line: str
    number: int
    separators: str

    def split(
        self, accept: Callable[[list[str]], bool]
    ) -> tuple[str, list[str]] | None:
        """Find the separator.

        Args:
            accept: Whether the cells of the line, in lower case, are right.

        Returns:
            The separator and the cells of the line; None if no separator
            gives two cells or more that are accepted.
        """
        for separator in self.separators:
            names = next(csv.reader([self.line], delimiter=separator), [])
            columns = column_names(names)
            if len(columns) > 1 and accept(columns):
                return separator, columns
        return None


def read_header(lines: Iterator[str]) -> TableHeader:
    """Read the header of a table.

    Args:
        lines: The lines of :func:`table_lines`. A first line ``sep=;``, as
            Excel reads it, is followed by the header.
    """
    line = next(lines, '')
    text = line.strip('\r\n')
    if text[:4].lower() == 'sep=' and text[4:] in set(SEPARATORS):
        return TableHeader(next(lines, ''), 2, text[4:])
    return TableHeader(line, 1, SEPARATORS)


def read_caption_table(path: Path) -> list[dict[str, Any] | InvalidJson]:
    """Read the rows of a table as unchecked records.

    Names of columns become lower case; empty cells are omitted. A row that
    cannot be used is an :class:`~.json_values.InvalidJson`.

    Raises:
        ValueError: The file is not UTF-8, or its header has no text column.
        OSError: The file cannot be read.
    """
    lines = table_lines(io.StringIO(read_text(path), newline=''))
    header = read_header(lines)
    found = header.split(
        lambda names: any(name in names for name in _TEXT_COLUMNS)
    )
    if found is None:
        raise ValueError(
            f'{path} has no column caption in its first line '
            f'({printable(header.line.strip())[:80]!r}); expected a header '
            'such as image,caption.'
        )
    return [
        InvalidJson(f'(line {row.line}) {row.problem}')
        if row.problem
        else row.cells
        for row in table_rows(lines, *found, header.number + 1)
    ]


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
