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
from pathlib import Path
from typing import Any

from ..images.formats import SUFFIXES
from ..utils.errors import printable
from ..utils.regular_files import read_text

TABLE_SUFFIXES = ('.csv', '.tsv')
TEXT_SUFFIXES = ('.txt', '.caption')
_SEPARATORS = ',;\t|'
_TEXT_COLUMNS = ('caption', 'question')


def read_caption_table(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a table as unchecked records.

    Names of columns become lower case; empty cells are omitted.

    Raises:
        ValueError: The file is not UTF-8, or its header has no text column.
        OSError: The file cannot be read.
    """
    text = read_text(path)
    header = text.partition('\n')[0]
    for separator in _SEPARATORS:
        names = next(csv.reader([header], delimiter=separator), [])
        columns = [name.strip().lower() for name in names]
        if len(columns) > 1 and any(name in columns for name in _TEXT_COLUMNS):
            break
    else:
        raise ValueError(
            f'{path} has no column caption in its first line '
            f'({printable(header.strip())[:80]!r}); expected a header such as '
            'image,caption.'
        )
    reader = csv.reader(io.StringIO(text, newline=''), delimiter=separator)
    next(reader)
    records = []
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                cells = zip(columns, row)
                records.append({k: v for k, v in cells if k and v.strip()})
    except csv.Error as error:
        raise ValueError(
            f'{path} cannot be read as a table (line {reader.line_num}: '
            f'{error}); repair the line.'
        ) from error
    return records


def read_caption_folder(folder: Path) -> list[dict[str, Any]]:
    """Read the text files next to the images of a folder and its subfolders.

    Returns:
        A record for each line of text, with the path of the image below the
        folder. Images without a text file, and hidden files, are not used.

    Raises:
        ValueError: A text file is not UTF-8.
        OSError: A file cannot be read.
    """
    records = []
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name[0] != '.')
        present = set(names)
        for name in sorted(names):
            stem, suffix = os.path.splitext(name)
            if suffix.lower() not in SUFFIXES or name.startswith('.'):
                continue
            image = Path(parent, name).relative_to(folder).as_posix()
            for text_suffix in TEXT_SUFFIXES:
                if stem + text_suffix in present:
                    text = read_text(Path(parent, stem + text_suffix))
                    records += [
                        dict(image=image, caption=line.strip())
                        for line in text.splitlines()
                        if line.strip()
                    ]
                    break
    return records
