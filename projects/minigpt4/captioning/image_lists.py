# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Read lists of images: text, CSV, TSV and JSON lines.

An invalid row becomes an entry with an error, so that the other rows are
answered. A file without any valid row is refused.
"""

import codecs
import csv
import io
import json
import os
import re
import unicodedata
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes, urlsplit

from ..prompts.text_validation import check_text
from ..utils.errors import one_line, printable, short_json
from ..utils.regular_files import read_regular
from ..utils.text_files import encoding_error
from .csv_escaping import plain_text

LIST_SUFFIXES = ('.csv', '.jsonl', '.tsv', '.txt')
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_SEPARATORS = ',;\t|'
_EXPECTED = 'an object with "image" and, optionally, "prompt"'
_QUOTING = (
    'a cell with a quote or a line end must be in quotes, with its quotes '
    'doubled'
)
_ESCAPED_BYTE = re.compile(r'\\u(dc[89a-f][0-9a-f])')


class ImageEntry(NamedTuple):
    """An image of a list, a folder or a command line.

    Attributes:
        image: Path of the image, as the user wrote it; see
            :func:`row_name` for a row without a path.
        prompt: The prompt of this image; None for the prompts of the run.
        error: Why it cannot be answered; None if it can.
    """

    image: str
    prompt: str | None = None
    error: str | None = None


class _InvalidRowError(ValueError):
    """A row that names no image."""


def read_list(path: str) -> list[ImageEntry]:
    """Read the entries of a list, in its order.

    Args:
        path: A ``.txt`` of one path per line, or a ``.csv``, ``.tsv`` or
            ``.jsonl`` with ``image`` and, optionally, ``prompt``. UTF-8, or
            UTF-16 with a byte order mark.

    Raises:
        OSError: It does not exist or cannot be read.
        ValueError: It is not a regular file, has no column ``image``, or has
            no valid row.
    """
    suffix = os.path.splitext(path)[1].lower()
    text = _decode(read_regular(path), path)
    if suffix == '.txt':
        return list(text_entries(text))
    entries, n_invalid = [], 0
    limit = csv.field_size_limit(len(text) + 1)
    try:
        rows = list(
            _json_rows(text) if suffix == '.jsonl' else _csv_rows(text, path)
        )
    finally:
        csv.field_size_limit(limit)
    for number, row in rows:
        try:
            if isinstance(row, Exception):
                raise _InvalidRowError(one_line(row))
            entries.append(_parse_row(row, f'line {number}'))
        except _InvalidRowError as error:
            n_invalid += 1
            entries.append(
                ImageEntry(
                    row_name(path, number),
                    '',
                    f'{printable(path)} line {number}: {error}',
                )
            )
    if entries and n_invalid == len(entries):
        raise ValueError(
            f'{printable(path)} cannot be read as a list: {entries[0].error}'
        )
    return entries


def row_name(path: str, number: int) -> str:
    """The ``image`` of a row that has no path."""
    return f'{path} line {number}'


def is_row_name(name: str, path: str) -> bool:
    """Whether :func:`row_name` made a name for a row of a list."""
    start = f'{path} line '
    return name.startswith(start) and name[len(start) :].isdecimal()


def text_entries(text: str) -> Iterator[ImageEntry]:
    """Read the entries of a text, one path per line.

    Blank lines are skipped, and so is a line that starts with ``#``, unless
    a file of that name exists.
    """
    lines = re.split('\r\n|\n' if '\n' in text else '\r', text)
    for line in lines:
        if line.strip() and not (
            line.startswith('#') and not os.path.lexists(line)
        ):
            yield _parse_path(line)


def decode_text(data: bytes) -> str:
    """Decode UTF-8, or UTF-16 or UTF-32 with a byte order mark.

    Bytes that are not UTF-8 become lone surrogates, as Python decodes file
    names.

    Raises:
        UnicodeDecodeError: It is invalid UTF-16 or UTF-32.
    """
    for marks, encoding in (
        ((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE), 'utf-32'),
        (_UTF16, 'utf-16'),
    ):
        if data.startswith(marks):
            return data.decode(encoding)
    return data.decode('utf-8-sig', 'surrogateescape')


def _decode(data: bytes, path: str) -> str:
    if not data.startswith(_UTF16) and (reason := encoding_error(data)):
        raise ValueError(f'{printable(path)} is no list ({reason}).')
    try:
        return decode_text(data)
    except UnicodeDecodeError as error:
        raise ValueError(
            f'{printable(path)} cannot be read as a list '
            f'({error.encoding}, byte {error.start}); save it as UTF-8.'
        ) from error


def _json_rows(text: str) -> Iterator[tuple[int, object]]:
    """Yield numbers and values of the lines; an exception if invalid."""
    for number, line in enumerate(text.split('\n'), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except RecursionError:
            yield number, ValueError('it is nested too deeply')
        except ValueError as error:
            reason = (
                f'it is not JSON ({one_line(error)}); expected {_EXPECTED}'
            )
            yield number, ValueError(reason)
        else:
            yield number, row


def _csv_rows(text: str, path: str) -> Iterator[tuple[int, object]]:
    """Yield numbers and cells of the rows; an exception if invalid.

    Raises:
        ValueError: There is no column ``image``.
    """
    reader, names = _open_csv(text, path)
    while True:
        number = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            reason = one_line(error)
            if 'end of data' in reason:
                reason = 'a quote is not closed, to the end of the file'
            reason = f'it is not a row of CSV ({reason}); {_QUOTING}'
            yield number, ValueError(reason)
            continue
        while len(cells) > len(names) and not cells[-1].strip():
            cells.pop()
        if len(cells) > len(names):
            yield (
                number,
                ValueError(
                    f'it has {len(cells)} cells, but the header names '
                    f'{len(names)}; put a cell with the separator in quotes'
                ),
            )
        elif any(cell.strip() for cell in cells):
            yield number, dict(zip(names, map(plain_text, cells)))


def _open_csv(text: str, path: str) -> tuple[Any, list[str]]:
    """Read the header of a CSV file.

    The separator is the one with which the header has a column ``image``;
    Excel's line ``sep=;`` is supported too.

    Returns:
        A reader of the rows after the header, and the names of the columns.

    Raises:
        ValueError: There is no column ``image``.
    """
    declared = re.match(r'"?sep=(.)"?\r?\n', text)
    separators = declared[1] if declared else _SEPARATORS
    if path.lower().endswith('.tsv'):
        separators = '\t' + separators
    header: list[str] = []
    for separator in separators:
        reader = csv.reader(
            io.StringIO(text, newline=''), delimiter=separator, strict=True
        )
        try:
            if declared:
                next(reader)
            cells = next(filter(any, reader), [])
        except csv.Error:
            continue
        names = [cell.strip().lower() for cell in cells]
        if names.count('image') == 1 and names.count('prompt') < 2:
            return reader, names
        header = header if len(header) > len(cells) else cells
    found = printable(', '.join(header))[:200]
    raise ValueError(
        f'{printable(path)} names no image: its first line has the columns '
        f'{found or "(none)"}; expected one column "image" and, optionally, '
        '"prompt".'
    )


def _parse_row(row: object, line: str) -> ImageEntry:
    if not isinstance(row, dict):
        raise _InvalidRowError(
            f'it is {short_json(row)}; expected {_EXPECTED}'
        )
    image, prompt = row.get('image'), row.get('prompt')
    if not isinstance(image, str) or not image.strip():
        raise _InvalidRowError(
            f'it names no image (image is {short_json(image)})'
        )
    entry = _parse_path(image)
    if prompt is None or prompt == '' or entry.error:
        return entry
    if not isinstance(prompt, str):
        return entry._replace(
            prompt=short_json(prompt),
            error=f'the prompt in {line} is {short_json(prompt)}; expected '
            'text.',
        )
    if not prompt.strip():
        return entry
    error = None
    try:
        check_text(prompt, f'the prompt {short_json(prompt)} in {line}')
    except ValueError as reason:
        error = str(reason)
    return entry._replace(prompt=prompt, error=error)


def _parse_path(name: str) -> ImageEntry:
    """Make the entry of a row with a path."""
    if '\0' in name:
        return ImageEntry(
            name, None, f'{printable(name)} has a NUL character.'
        )
    try:
        path = find_path(name)
        os.fsencode(path)
    except UnicodeEncodeError:
        return ImageEntry(
            name,
            None,
            f'the name {printable(name)} holds half a character.',
        )
    except ValueError as error:
        return ImageEntry(name.strip(), None, one_line(error))
    return ImageEntry(path)


def find_path(name: str) -> str:
    r"""Find the file of a name in a list.

    Args:
        name: A path, also with ``~``, as a ``file://`` URL, with blanks
            around it, in another Unicode normalisation, or with ``\udcXX``
            for bytes that are not UTF-8, as in the CSV exports. A file of
            exactly this name is preferred.

    Raises:
        ValueError: It is a web address, or names a file of another host.
    """
    if os.path.lexists(name):
        return os.path.normpath(name)
    stripped = name.strip()
    scheme = url_scheme(stripped)
    if scheme in ('http', 'https', 'ftp', 's3', 'gs', 'data'):
        raise ValueError(
            f'{printable(stripped[:200])} is an address, not a file; download '
            'the image and give its path.'
        )
    if scheme == 'file':
        return os.path.normpath(_path_of_url(stripped))
    unescaped = _ESCAPED_BYTE.sub(lambda m: chr(int(m[1], 16)), name)
    # macOS writes accents as separate characters (NFD), others do not (NFC)
    forms = (unicodedata.normalize(form, stripped) for form in ('NFC', 'NFD'))
    expanded = os.path.expanduser(stripped)
    for candidate in (stripped, expanded, unescaped, *forms):
        if candidate != name and os.path.lexists(candidate):
            return os.path.normpath(candidate)
    return os.path.normpath(os.path.expanduser(name))


def url_scheme(text: str) -> str:
    """The scheme of a URL, or an empty string for another text."""
    match = re.match(r'([a-zA-Z][a-zA-Z0-9+.-]*):(?=//)|(data|file):', text)
    return (match[1] or match[2]).lower() if match else ''


def _path_of_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        host = parts.hostname or ''
        path = os.fsdecode(unquote_to_bytes(parts.path))
    except ValueError:
        host, path = '?', ''
    if host not in ('', 'localhost') or not path:
        raise ValueError(
            f'{printable(url[:200])} names no file of this computer; '
            'give its path.'
        )
    if '\0' in path:
        raise ValueError(f'{printable(url)} has a NUL character.')
    return path
