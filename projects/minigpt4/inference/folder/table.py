# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The answers about many pictures, on disk: resumable, then as a table.

Rows are appended to a JSONL file as they come and are put in order at the
end. CSV and Parquet are written whole from the JSONL file beside them.
"""

import csv
import errno
import fcntl
import importlib.util
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ...atomic import replacing

SUFFIXES = ('.jsonl', '.csv', '.parquet')
_HEAD = b'{"image": '  # how every row begins
_ROWS_AT_ONCE = 10_000  # of a Parquet file


@dataclass(frozen=True)
class CaptionRow:
    """One answer about one picture.

    Attributes:
        image: The picture, as the user named it.
        prompt: The question.
        caption: The answer; None where there is none.
        error: Why there is none.
        finished: Whether the answer ended by itself; False where it was cut
            at ``max_new_tokens``.
        tokens: Its length.
        bytes: Size of the picture's file; None where it cannot be read.
        modified_ns: When that file was last changed.
        model: Name of the model, or of its config.
        weights: Digest of the checkpoint; None for the published one.
        settings: Of generation, where they are not the model's own.
    """

    image: str
    prompt: str
    caption: str | None = None
    error: str | None = None
    finished: bool | None = None
    tokens: int | None = None
    bytes: int | None = None
    modified_ns: int | None = None
    model: str = ''
    weights: str | None = None
    settings: dict | None = None

    @property
    def key(self) -> tuple[str, str]:
        """What makes two rows answers to the same question."""
        return os.path.abspath(self.image), self.prompt

    @property
    def made_by(self) -> dict[str, Any]:
        """What the answer depends on besides picture and question."""
        return dict(
            model=self.model, weights=self.weights, settings=self.settings
        )


class _Place(NamedTuple):
    """Where a row stands, and what tells whether it is still true."""

    start: int
    end: int
    state: tuple[int, int] | None  # bytes, modified_ns; None after an error
    error: str | None


class CaptionTable:
    """The resumable file. Only one process may have it open.

    Args:
        path: The JSONL file; it is made where there is none. A last line that
            was cut off is removed.
        made_by: What the rows have to be made by.
        overwrite: Begin anew, whatever stands there.

    Raises:
        ValueError: It holds something else, or answers made by something
            else.
        OSError: It cannot be written, or another run is at it.
    """

    def __init__(
        self, path: Path, made_by: dict[str, Any], overwrite: bool = False
    ) -> None:
        self.path = path
        self.made_by = made_by
        self._places: dict[tuple[str, str], _Place] = {}
        self._stale = False
        path.parent.mkdir(parents=True, exist_ok=True)
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

        A failure that stands there already is left as it is.
        """
        if row.error is not None and row.error == self.error(row.key):
            return
        data = _encoded(row)
        start = self._file.seek(0, os.SEEK_END)
        self._file.write(data)
        self._note(row, start, start + len(data))

    def finish(self, order: Sequence[tuple[str, str]]) -> None:
        """Put the rows in order, without those that were replaced.

        Args:
            order: Keys; rows of other keys come behind them, as they stand.
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
        """All rows as they stand."""
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
                row = _decoded(line)
                whole = line.endswith(b'\n')
                if row is None and not whole and _is_half(line):
                    self._file.truncate(end)
                    return
                if row is None:
                    raise ValueError(
                        f'{self.path} holds something else than captions '
                        f'(line {number}); give another -o, or --overwrite.'
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


def _open_alone(path: Path):
    """Open a file to read and append, as its only writer.

    Raises:
        BlockingIOError: Another process has it open so.
    """
    file = open(path, 'a+b', buffering=0)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise BlockingIOError(
            errno.EWOULDBLOCK, f'another run is writing {path}; wait for it'
        ) from None
    except OSError:
        pass  # a file system without locks
    return file


def _encoded(row: CaptionRow) -> bytes:
    fields = asdict(row)
    try:
        return json.dumps(fields, ensure_ascii=False).encode() + b'\n'
    except UnicodeEncodeError:  # a file name that is no UTF-8
        return json.dumps(fields).encode() + b'\n'


def _decoded(line: bytes) -> CaptionRow | None:
    try:
        row = CaptionRow(**json.loads(line))
    except (TypeError, ValueError):
        return None
    strings = isinstance(row.image, str) and isinstance(row.prompt, str)
    return row if strings else None


def _is_half(line: bytes) -> bool:
    """Whether a last line is the beginning of a row of ours."""
    return line.startswith(_HEAD) or _HEAD.startswith(line)


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
    image = row.image.encode(errors='backslashreplace').decode()
    settings = json.dumps(row.settings or {}, ensure_ascii=False)
    return {**asdict(row), 'image': image, 'settings': settings}


def _write_csv(rows: Iterable[CaptionRow], path: Path) -> None:
    columns = list(CaptionRow.__dataclass_fields__)
    with open(path, 'w', encoding='utf-8', newline='') as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(map(_fields, rows))


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
