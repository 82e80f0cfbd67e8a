# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The answers about many pictures, on disk: resumable, then as a table.

Rows are appended to a JSONL file as they come and are put in order at the
end. CSV and Parquet are written whole from the JSONL file of the same name.
JSONL has every text exactly; CSV protects cells against spreadsheets (see
:mod:`.spreadsheet`); what is not Unicode (bytes of a file name) is written as
``\\udcXX`` in CSV and Parquet.
"""

import csv
import errno
import importlib.util
import json
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from ..utils.atomic import replacing
from ..utils.errors import printable
from ..utils.locks import lock_file
from ..utils.regular_files import NotRegularFileError
from .rows import (
    CaptionRow,
    decode_row,
    encode_row,
    is_cut_off,
    unknown_columns,
)
from .spreadsheet import protected_cell

SUFFIXES = ('.jsonl', '.csv', '.parquet')
_ROWS_AT_ONCE = 10_000  # of a Parquet file


class _Place(NamedTuple):
    """Where a row is in the file, and the state of its picture."""

    start: int
    end: int
    state: tuple[int, int] | None  # bytes, modified_ns; None after an error
    error: str | None


class CaptionTable:
    """The resumable file. Only one process may have it open.

    Args:
        path: The JSONL file; it is made where there is none. A last line that
            was cut off is removed, with zeros that a crash left.
        made_by: What the rows have to be made by.
        overwrite: Replace what the file holds.

    Attributes:
        repaired: What was removed at the end of the file, in a sentence; None
            if nothing was.

    Raises:
        ValueError: It is not a regular file, has lines that are no rows, or
            answers made by something else.
        OSError: It cannot be written, or another run is at it.
    """

    def __init__(
        self, path: Path, made_by: dict[str, Any], overwrite: bool = False
    ) -> None:
        self.path = path
        self.made_by = made_by
        self.repaired: str | None = None
        self._places: dict[tuple[str, str], _Place] = {}
        self._stale = False
        make_folder(path.parent)
        self._file = _open_alone(path)
        try:
            if overwrite:
                self._file.truncate(0)
            self._read()
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        return len(self._places)

    def state(self, key: tuple[str, str]) -> tuple[int, int] | None:
        """Size and time of a picture when it was answered; None if it was not.

        An answer that failed is none.
        """
        place = self._places.get(key)
        return place and place.state

    def error(self, key: tuple[str, str]) -> str | None:
        """Why a picture could not be answered; None if it was, or is new."""
        place = self._places.get(key)
        return place and place.error

    def add(self, row: CaptionRow) -> None:
        """Append a row; it takes the place of an older one of its key.

        A failure that the file holds already is not added again.
        """
        if row.error is not None and row.error == self.error(row.key):
            return
        data = encode_row(row)
        start = self._file.seek(0, os.SEEK_END)
        try:
            rest = memoryview(data)
            while rest:  # a disk that becomes full takes a part
                rest = rest[self._file.write(rest) :]
        except BaseException:
            self._file.truncate(start)
            raise
        self._note(row, start, start + len(data))

    def remove(self, key: tuple[str, str]) -> None:
        """Leave out a row when the table is finished."""
        self._stale |= self._places.pop(key, None) is not None

    def keys(self) -> list[tuple[str, str]]:
        """The keys of all rows."""
        return list(self._places)

    def finish(self, order: Sequence[tuple[str, str]]) -> None:
        """Put the rows in order, without those that were replaced.

        Args:
            order: Keys; rows of other keys follow in their order.
        """
        wanted = [key for key in order if key in self._places]
        first = set(wanted)
        wanted += [key for key in self._places if key not in first]
        places = [self._places[key] for key in wanted]
        in_order = all(a.end == b.start for a, b in zip(places, places[1:]))
        if in_order and not self._stale:
            return
        with replacing(self.path) as part, open(part, 'wb') as file:
            with open(self.path, 'rb') as old:
                for place in places:
                    old.seek(place.start)
                    file.write(old.read(place.end - place.start))
            file.flush()
            os.fsync(file.fileno())
        self.close()
        self._file = _open_alone(self.path)
        self._places.clear()
        self._stale = False
        self._read()

    def rows(self) -> Iterator[CaptionRow]:
        """All rows in the order of the file."""
        with open(self.path, 'rb') as file:
            for place in self._places.values():
                file.seek(place.start)
                line = file.read(place.end - place.start)
                yield CaptionRow(**json.loads(line))

    def close(self) -> None:
        """Close the file; an empty one is removed."""
        if not self._file.closed:
            if not os.fstat(self._file.fileno()).st_size:
                self.path.unlink(missing_ok=True)
            self._file.close()

    def _read(self) -> None:
        end, whole = 0, True
        with open(self.path, 'rb') as file:
            for number, line in enumerate(file, 1):
                row = decode_row(line)
                whole = line.endswith(b'\n')
                if row is None and not whole and is_cut_off(line):
                    self._file.truncate(end)
                    self.repaired = (
                        f'{printable(str(self.path))}: its last line '
                        f'({number}) was cut off and is removed.'
                    )
                    return
                if row is None:
                    raise ValueError(
                        f'{self.path} holds something else than captions '
                        f'(line {number}{unknown_columns(line)}); give '
                        'another -o, or --overwrite to begin anew, or remove '
                        'that line.'
                    )
                self._check(row, number)
                start, end = end, end + len(line) + (not whole)
                self._note(row, start, end)
        if not whole:
            self._file.write(b'\n')

    def _note(self, row: CaptionRow, start: int, end: int) -> None:
        state = None
        if row.error is None and row.bytes is not None:
            state = row.bytes, row.modified_ns or 0
        # a row that is replaced moves to the end, as in the file
        self._stale |= self._places.pop(row.key, None) is not None
        self._places[row.key] = _Place(start, end, state, row.error)

    def _check(self, row: CaptionRow, number: int) -> None:
        for name, now in self.made_by.items():
            found = row.made_by[name]
            if found != now:
                raise ValueError(
                    f'{self.path} holds answers with {name} {found} (line '
                    f'{number}), now it is {now}; give another -o, or '
                    '--overwrite to begin anew.'
                )


def make_folder(path: Path) -> None:
    """Make a folder with those above it, where there is none.

    Raises:
        OSError: It cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise NotADirectoryError(
            errno.ENOTDIR,
            'cannot be made, for a part of it is a file',
            str(path),
        ) from error


def _open_alone(path: Path):
    """Open a file to read and append, as its only writer.

    Raises:
        BlockingIOError: Another process has it open so.
        NotRegularFileError: It is a FIFO or a device.
    """
    # without waiting for the reader of a FIFO
    opened = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
    file = open(opened, 'a+b', buffering=0)
    if not stat.S_ISREG(os.fstat(opened).st_mode):
        file.close()
        raise NotRegularFileError(
            f'{path} is not a regular file; give another -o.'
        )
    if not lock_file(file):
        file.close()
        raise BlockingIOError(
            errno.EWOULDBLOCK, f'another run is writing {path}; wait for it'
        )
    return file


def require_pyarrow() -> None:
    """Refuse Parquet without pyarrow.

    Raises:
        ModuleNotFoundError: It is not installed.
    """
    if importlib.util.find_spec('pyarrow') is None:
        raise ModuleNotFoundError(
            "a Parquet file needs pyarrow; pip install 'minigpt4[parquet]', "
            'or give -o FILE.csv or FILE.jsonl.'
        )


def write_table(rows: Iterable[CaptionRow], path: Path) -> None:
    """Write a CSV or Parquet file, whole or not at all.

    Args:
        rows: The rows.
        path: With the suffix ``.csv`` or ``.parquet``.
    """
    with replacing(path) as part:
        if path.suffix == '.csv':
            _write_csv(rows, part)
        else:
            _write_parquet(rows, part)


def _fields(row: CaptionRow) -> dict[str, Any]:
    """A row as plain columns."""
    settings = json.dumps(row.settings or {}, ensure_ascii=False)
    return {
        name: value.encode(errors='backslashreplace').decode()
        if isinstance(value, str)
        else value
        for name, value in {**asdict(row), 'settings': settings}.items()
    }


def _cells(row: CaptionRow) -> dict[str, Any]:
    """A row as cells of CSV."""
    return {
        name: protected_cell(value) if isinstance(value, str) else value
        for name, value in _fields(row).items()
    }


def _write_csv(rows: Iterable[CaptionRow], path: Path) -> None:
    columns = list(CaptionRow.__dataclass_fields__)
    with open(path, 'w', encoding='utf-8', newline='') as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(map(_cells, rows))


def _write_parquet(rows: Iterable[CaptionRow], path: Path) -> None:
    require_pyarrow()
    import pyarrow
    from pyarrow import parquet

    kinds = dict(
        finished=pyarrow.bool_(),
        tokens=pyarrow.int32(),
        bytes=pyarrow.int64(),
        modified_ns=pyarrow.int64(),
    )
    schema = pyarrow.schema(
        [
            (name, kinds.get(name, pyarrow.string()))
            for name in CaptionRow.__dataclass_fields__
        ]
    )
    with parquet.ParquetWriter(path, schema) as writer:
        batch: list[dict] = []
        for row in rows:
            batch.append(_fields(row))
            if len(batch) == _ROWS_AT_ONCE:
                writer.write_table(pyarrow.Table.from_pylist(batch, schema))
                batch = []
        writer.write_table(pyarrow.Table.from_pylist(batch, schema))
