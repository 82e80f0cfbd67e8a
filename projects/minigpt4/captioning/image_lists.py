# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Lists of pictures, row by row: text, CSV, TSV and JSON lines.

A row that cannot be used becomes a question with an error, so that the other
rows are answered. A file of which no row can be read is refused.
"""

import codecs
import csv
import io
import json
import os
import re
import unicodedata
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import unquote_to_bytes, urlsplit

from ..prompts.text_validation import check_text
from ..utils.errors import one_line, printable
from ..utils.regular_files import read_regular
from .spreadsheet import plain_text

LISTS = ('.csv', '.jsonl', '.tsv', '.txt')
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_SEPARATORS = ',;\t|'
_EXPECTED = 'an object with "image" and, if wished, "prompt"'
_QUOTING = (
    'a cell with a quote or a line end has to be in quotes, with its quotes '
    'doubled'
)
_ESCAPED_BYTE = re.compile(r'\\u(dc[89a-f][0-9a-f])')


class Question(NamedTuple):
    """A question about a picture.

    Attributes:
        image: Path of the picture, as the user wrote it. Of a row that names
            none: the list and the line.
        prompt: What to ask; None for what is asked about all pictures.
        error: Why it cannot be asked; None if it can.
    """

    image: str
    prompt: str | None = None
    error: str | None = None


class _UnreadableRowError(ValueError):
    """A row that names no picture."""


def read_list(path: str) -> list[Question]:
    """The questions of a list, in its order.

    Args:
        path: A ``.txt`` of one path per line, or a ``.csv``, ``.tsv`` or
            ``.jsonl`` with ``image`` and, if wished, ``prompt``. UTF-8, or
            UTF-16 with a byte order mark.

    Raises:
        OSError: It is missing or cannot be read.
        ValueError: It is not a regular file, has no column ``image``, or none
            of its rows can be read.
    """
    suffix = os.path.splitext(path)[1].lower()
    text = _decode(read_regular(path), path)
    if suffix == '.txt':
        return list(text_questions(text))
    questions, unreadable = [], 0
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
                raise _UnreadableRowError(one_line(row))
            questions.append(_question(row, f'line {number}'))
        except _UnreadableRowError as error:
            unreadable += 1
            questions.append(
                Question(
                    row_name(path, number),
                    '',
                    f'{printable(path)} line {number}: {error}',
                )
            )
    if questions and unreadable == len(questions):
        raise ValueError(
            f'{printable(path)} cannot be read as a list: {questions[0].error}'
        )
    return questions


def row_name(path: str, number: int) -> str:
    """A name for the picture of a row that names none."""
    return f'{path} line {number}'


def is_row_name(name: str, path: str) -> bool:
    """Whether a name is that of a row of a list; see :func:`row_name`."""
    start = f'{path} line '
    return name.startswith(start) and name[len(start) :].isdecimal()


def text_questions(text: str) -> Iterator[Question]:
    """The pictures of a text, one path per line.

    Blank lines are left out, and so is a line that begins with ``#`` unless
    there is a file of that name.
    """
    lines = re.split('\r\n|\n' if '\n' in text else '\r', text)
    for line in lines:
        if line.strip() and not (
            line.startswith('#') and not os.path.lexists(line)
        ):
            yield _of_path(line)


def decode_text(data: bytes) -> str:
    """Text of UTF-8, or of UTF-16 or UTF-32 with a byte order mark.

    Bytes that are not UTF-8 are kept as lone surrogates, as Python keeps those
    of file names.

    Raises:
        UnicodeDecodeError: It is broken UTF-16 or UTF-32.
    """
    for marks, encoding in (
        ((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE), 'utf-32'),
        (_UTF16, 'utf-16'),
    ):
        if data.startswith(marks):
            return data.decode(encoding)
    return data.decode('utf-8-sig', 'surrogateescape')


def _decode(data: bytes, path: str) -> str:
    try:
        return decode_text(data)
    except UnicodeDecodeError as error:
        raise ValueError(
            f'{printable(path)} cannot be read as a list '
            f'({error.encoding}, byte {error.start}); save it as UTF-8.'
        ) from error


def _json_rows(text: str) -> Iterator[tuple[int, object]]:
    """Numbers and values of the lines; an exception for a broken one."""
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
    """Numbers and cells of the rows; an exception for a broken one.

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


def _open_csv(text: str, path: str):
    """A reader after its header, and the names of the columns.

    The separator is the one with which the header has a column ``image``;
    Excel's line ``sep=;`` is read too.
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
        f'{printable(path)} names no picture: its first line has the columns '
        f'{found or "(none)"}; expected a column "image", once, and, if '
        'wished, "prompt".'
    )


def _question(row: object, line: str) -> Question:
    if not isinstance(row, dict):
        raise _UnreadableRowError(f'it is {_short(row)}; expected {_EXPECTED}')
    image, prompt = row.get('image'), row.get('prompt')
    if not isinstance(image, str) or not image.strip():
        raise _UnreadableRowError(
            f'it names no picture (image is {_short(image)})'
        )
    question = _of_path(image)
    if prompt is None or prompt == '' or question.error:
        return question
    if not isinstance(prompt, str):
        return question._replace(
            prompt=_short(prompt),
            error=f'the prompt in {line} is {_short(prompt)}; expected text.',
        )
    if not prompt.strip():
        return question
    error = None
    try:
        check_text(prompt, f'the prompt {_short(prompt)} in {line}')
    except ValueError as reason:
        error = str(reason)
    return question._replace(prompt=prompt, error=error)


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return printable(text if len(text) <= 60 else text[:57] + '...')


def _of_path(name: str) -> Question:
    """The question about a picture that a row names."""
    if '\0' in name:
        return Question(name, None, f'{printable(name)} has a NUL character.')
    try:
        path = found_path(name)
        os.fsencode(path)
    except UnicodeEncodeError:
        return Question(
            name,
            None,
            f'the name {printable(name)} holds half a character.',
        )
    except ValueError as error:
        return Question(name.strip(), None, one_line(error))
    return Question(path)


def found_path(name: str) -> str:
    r"""The path that a name in a list stands for.

    Args:
        name: A path, also with ``~``, as ``file://`` address, with blanks
            around it, in another Unicode normalisation, or with ``\udcXX``
            for the bytes of a name that are not UTF-8, as our CSV files have
            it. A file of exactly this name is taken first.

    Raises:
        ValueError: It is a web address, or names another computer.
    """
    if os.path.lexists(name):
        return os.path.normpath(name)
    bare = name.strip()
    scheme = scheme_of(bare)
    if scheme in ('http', 'https', 'ftp', 's3', 'gs', 'data'):
        raise ValueError(
            f'{printable(bare[:200])} is an address, not a file; download '
            'the picture and give its path.'
        )
    if scheme == 'file':
        return os.path.normpath(_path_of_address(bare))
    written = _ESCAPED_BYTE.sub(lambda m: chr(int(m[1], 16)), name)
    # macOS writes accents as marks of their own (NFD), others do not (NFC)
    forms = (unicodedata.normalize(form, bare) for form in ('NFC', 'NFD'))
    for candidate in (bare, os.path.expanduser(bare), written, *forms):
        if candidate != name and os.path.lexists(candidate):
            return os.path.normpath(candidate)
    return os.path.normpath(os.path.expanduser(name))


def scheme_of(text: str) -> str:
    """The scheme of an address, '' where the text is none."""
    match = re.match(r'([a-zA-Z][a-zA-Z0-9+.-]*):(?=//)|(data|file):', text)
    return (match[1] or match[2]).lower() if match else ''


def _path_of_address(address: str) -> str:
    try:
        parts = urlsplit(address)
        host = parts.hostname or ''
        path = os.fsdecode(unquote_to_bytes(parts.path))
    except ValueError:
        host, path = '?', ''
    if host not in ('', 'localhost') or not path:
        raise ValueError(
            f'{printable(address[:200])} names no file of this computer; '
            'give its path.'
        )
    if '\0' in path:
        raise ValueError(f'{printable(address)} has a NUL character.')
    return path
