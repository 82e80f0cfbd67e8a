# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Read the marks of people that the page has exported: JSON or CSV.

A spreadsheet may have changed the CSV: other separators, a byte order mark,
quotation marks, marks of several people in one file.
"""

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ..datasets.caption_files import read_header, table_lines, table_rows
from ..utils.errors import printable, short_json
from ..utils.ids import id_key
from ..utils.json_files import parse_strict_json
from ..utils.text_files import read_text

MARKS = (1, 2)
_COLUMNS = ('run', 'rater', 'number', 'mark')
_RATER = re.compile(r'[\w-]{1,40}')
_RUN = re.compile('[0-9a-f]{16}')
_WHOLE = re.compile(r'[0-9]{1,9}(?:[.,]0+)?')
_EXPECTED = 'expected the JSON or CSV file of the page of "eval marks"'


class Marks(NamedTuple):
    """Marks of people.

    Attributes:
        run: The digest of the answers that are marked.
        raters: The marks (1 or 2) by number of the answer, by name.
    """

    run: str
    raters: dict[str, dict[int, int]]


def read_marks(file: Path) -> Marks:
    """Read an exported file.

    Raises:
        ValueError: It is no such file, has no marks, or gives an answer two
            different marks of one person.
        OSError: It cannot be read.
    """
    if not file.is_file():
        raise FileNotFoundError(
            f'{file} is no file; give the marks that the page has exported.'
        )
    text = read_text(file)
    runs: dict[str, str] = {}
    places: dict[tuple[str, int], str] = {}
    raters: dict[str, dict[int, int]] = {}
    is_json = text.lstrip().startswith('{')
    rows = _json_rows(file, text) if is_json else _csv_rows(file, text)
    for place, row in rows:
        rater = row['rater']
        if not isinstance(rater, str) or not _RATER.fullmatch(rater):
            raise ValueError(
                f'{file}: {place} has the rater {short_json(rater)}; '
                'expected a name of letters, digits, "-" and "_".'
            )
        runs.setdefault(str(row['run']), place)
        number = _whole(file, place, 'number', row['number'])
        mark = _whole(file, place, 'mark', row['mark'])
        if mark not in MARKS:
            raise ValueError(
                f'{file}: {place} has the mark {mark}; expected 1 or 2.'
            )
        marks = raters.setdefault(rater, {})
        first = places.setdefault((rater, number), place)
        if marks.setdefault(number, mark) != mark:
            raise ValueError(
                f'{file}: {first} and {place} have the marks '
                f'{marks[number]} and {mark} of {rater} for the answer '
                f'{number}; expected one mark, or a name for each person in '
                'the column rater.'
            )
    if not raters:
        raise ValueError(f'{file} has no marks yet; mark some answers first.')
    if len(runs) > 1:
        (one, _), (other, place) = list(runs.items())[:2]
        raise ValueError(
            f'{file} has marks of different answers (run {printable(one)}, '
            f'and in {place} {printable(other)}); expected those of one page.'
        )
    (run,) = runs
    return Marks(run, raters)


def changed_run(run: str) -> str:
    """Why a digest is none, for an error; '' if it may be one."""
    if _RUN.fullmatch(run):
        return ''
    return (
        '; a program has changed the column run: import it as a text, or '
        'give the file as the page has exported it'
    )


def _json_rows(file: Path, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield place and fields of each mark of a JSON file."""
    try:
        data = parse_strict_json(text)
        run, rater = data['run'], data['rater']
        pairs = list(data['marks'].items())
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f'{file} has no marks; {_EXPECTED}.') from None
    for number, mark in pairs:
        row = dict(run=run, rater=rater, number=number, mark=mark)
        yield f'answer {printable(str(number))[:40]}', row


def _csv_rows(file: Path, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield place and cells of each row with a mark."""
    lines = table_lines(io.StringIO(text, newline=''))
    header = read_header(lines)
    found = header.split(lambda names: set(_COLUMNS) <= {*names})
    if found is None:
        raise ValueError(
            f'{file} has no marks (its first line is '
            f'{printable(header.line.strip())[:80]!r}); {_EXPECTED}, with '
            f'the columns {", ".join(_COLUMNS)}.'
        )
    separator, columns = found
    rows = table_rows(lines, separator, columns, header.number + 1, 'number')
    for row in rows:
        place = f'line {row.line}'
        if row.problem:
            raise ValueError(f'{file}: {place} {row.problem}.')
        cells = {name: cell.strip() for name, cell in row.cells.items()}
        if 'mark' not in cells:
            continue  # the person has removed it
        for name in _COLUMNS:
            if name not in cells:
                raise ValueError(
                    f'{file}: {place} has an empty cell in the column '
                    f'{name}; expected a value.'
                )
        yield place, cells


def _whole(file: Path, place: str, name: str, value: Any) -> int:
    """A whole number, also as a spreadsheet writes it: ``3`` or ``3.0``."""
    if isinstance(value, str) and _WHOLE.fullmatch(value):
        return int(re.split('[.,]', value)[0])
    try:
        return int(id_key(value))
    except ValueError:
        raise ValueError(
            f'{file}: {place} has the {name} {short_json(value)}; expected a '
            'whole number.'
        ) from None
