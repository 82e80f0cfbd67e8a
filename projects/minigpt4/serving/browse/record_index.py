# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The records of a data set in a SQLite file: pages of them, and a search.

A thread fills it while it is read. Images are not stored, only where they
are.
"""

import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from ...data_tools.data_items import DataItem, ImageRef, Span
from ...prompts import Turn

_BATCH = 1000  # records of a transaction
_START = 200  # characters of the text in a list
_SCHEMA = """
CREATE TABLE records (
    number INTEGER PRIMARY KEY,
    part TEXT NOT NULL,
    id TEXT NOT NULL,
    start TEXT NOT NULL,
    error TEXT,
    num_images INTEGER NOT NULL,
    search TEXT NOT NULL,
    content TEXT NOT NULL
) STRICT;
CREATE INDEX invalid ON records (number) WHERE error IS NOT NULL;
"""


class Entry(NamedTuple):
    """A record in a list.

    Attributes:
        number: Its number, from 1.
        part: Its part of the data.
        id: Its id.
        text: The start of its text.
        error: Why it is invalid, or None.
        num_images: The number of its images.
    """

    number: int
    part: str
    id: str
    text: str
    error: str | None
    num_images: int


class RecordIndex:
    """Records in a SQLite file.

    Args:
        path: The file, which is created.

    Attributes:
        count: Records that can be read.
        complete: Whether all records were read.
        error: Why the reading ended early, or ''.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0
        self.complete = False
        self.error = ''
        self._stopped = threading.Event()
        with closing(sqlite3.connect(path)) as database:
            database.execute('PRAGMA journal_mode=WAL')
            database.executescript(_SCHEMA)

    def stop(self) -> None:
        """End :meth:`fill` after its current record."""
        self._stopped.set()

    def fill(self, items: Iterable[DataItem]) -> None:
        """Add records.

        Raises:
            OSError: A file cannot be read.
            ValueError: A file is damaged.
            sqlite3.Error: The index cannot be written, e.g. on a full disk.
        """
        rows: list[tuple] = []
        with closing(sqlite3.connect(self.path)) as database:
            database.execute('PRAGMA synchronous=OFF')  # a temporary file
            for number, item in enumerate(items, self.count + 1):
                rows.append(_row(number, item))
                if len(rows) == _BATCH:
                    self._write(database, rows)
                if self._stopped.is_set():
                    return
            self._write(database, rows)

    def _write(self, database: sqlite3.Connection, rows: list[tuple]) -> None:
        with database:
            database.executemany(
                'INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?, ?)', rows
            )
        self.count += len(rows)
        rows.clear()

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self.path)) as database:
            yield database

    def page(
        self,
        after: int = 0,
        limit: int = 50,
        query: str = '',
        invalid: bool = False,
    ) -> list[Entry]:
        """Return the records that follow a number.

        Args:
            after: The number.
            limit: The most records.
            query: Text that the id or a text contains, in any case.
            invalid: Whether only invalid records are returned.
        """
        condition, values = _condition(query, invalid)
        with self._reading() as database:
            rows = database.execute(
                'SELECT number, part, id, start, error, num_images '
                f'FROM records WHERE number > ? {condition} '
                'ORDER BY number LIMIT ?',
                (after, *values, limit),
            ).fetchall()
        return [Entry(*row) for row in rows]

    def matches(self, query: str = '', invalid: bool = False) -> int:
        """Return the number of records that :meth:`page` returns in all."""
        if not query and not invalid:
            return self.count
        condition, values = _condition(query, invalid)
        with self._reading() as database:
            (number,) = database.execute(
                f'SELECT count(*) FROM records WHERE number > 0 {condition}',
                values,
            ).fetchone()
        return number

    def item(self, number: int) -> DataItem | None:
        """Return a record; None if there is none of this number."""
        with self._reading() as database:
            row = database.execute(
                'SELECT part, id, error, content FROM records '
                'WHERE number = ?',
                (number,),
            ).fetchone()
        if row is None:
            return None
        part, record_id, error, content = row
        values: dict[str, Any] = json.loads(content)
        images = tuple(
            ImageRef(name, path, span=span and Span(*span))
            for name, path, span in values['images']
        )
        turns = tuple(Turn(q, a) for q, a in values['turns'])
        return DataItem(part, record_id, images, turns, error)


def _condition(query: str, invalid: bool) -> tuple[str, tuple[str, ...]]:
    condition = ' AND error IS NOT NULL' if invalid else ''
    text = ' '.join(query.casefold().split())
    if not text:
        return condition, ()
    return f'{condition} AND instr(search, ?) > 0', (text,)


def _row(number: int, item: DataItem) -> tuple:
    texts = [t for turn in item.turns for t in (turn.question, turn.answer)]
    joined = ' '.join(text for text in texts if text)
    content = dict(
        images=[[ref.name, ref.path, ref.span] for ref in item.images],
        turns=[[turn.question, turn.answer] for turn in item.turns],
    )
    names = ' '.join(ref.name for ref in item.images)
    search = f'{item.id} {names} {joined} {item.error or ""}'
    values = (
        item.part,
        item.id,
        joined[:_START],
        item.error,
        len(item.images),
        ' '.join(search.casefold().split()),
    )
    return (
        number,
        *(_clean(v) if isinstance(v, str) else v for v in values),
        json.dumps(content),
    )


def _clean(text: str) -> str:
    """Escape lone surrogates, of file names that are not UTF-8."""
    return text.encode('utf-8', 'backslashreplace').decode()
