# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""What a check knows of each image and text, in a database.

Of a record some numbers remain in memory, and everything else is in SQLite,
so that the memory does not grow with the texts and names of millions of
records.
"""

import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from .data_items import ImageRef, Span
from .image_facts import ImageFacts

_TABLES = """
PRAGMA cache_size = -65536;
CREATE TABLE IF NOT EXISTS images (
    id INTEGER PRIMARY KEY, key BLOB UNIQUE, own INT, splits INT,
    name BLOB, path BLOB, modified INT, shard BLOB, start INT, stop INT,
    digest BLOB, bytes INT, width INT, height INT, hash INT, error TEXT);
CREATE TABLE IF NOT EXISTS texts (
    digest BLOB, own INT, splits INT, name BLOB, start BLOB);
"""
_HALF = 1 << 63  # SQLite has signed numbers of 64 bits


class ImageRow(NamedTuple):
    """An image as duplicates are searched.

    Attributes:
        id: Its number, in the order of reading.
        digest: The digest of its file.
        hash: Its perceptual hash; None if it was not computed.
        splits: Bits of the splits that use it.
        own: Whether it is of the data that are checked.
    """

    id: int
    digest: bytes
    hash: int | None
    splits: int
    own: bool


class TextRow(NamedTuple):
    """A text that the data have.

    Attributes:
        name: The first record that has it.
        start: Its first characters.
        records: Records that have it.
        splits: Bits of their splits.
        is_compared: Whether the data to compare with have it too.
    """

    name: str
    start: str
    records: int
    splits: int
    is_compared: bool


class KnownData:
    """Images and texts, of the data and of those that they are compared to.

    Args:
        database: Where they are stored; None is a temporary file, which
            SQLite removes.
    """

    def __init__(self, database: sqlite3.Connection | None = None) -> None:
        if database is None:
            database = sqlite3.connect('', isolation_level=None)
            database.execute('PRAGMA journal_mode = OFF')
            database.execute('PRAGMA synchronous = OFF')
            database.executescript(_TABLES)
            database.execute('BEGIN')
        else:
            database.executescript(_TABLES)
        self._database = database

    def add_image(self, ref: ImageRef, splits: int, own: bool) -> int | None:
        """Add a use of an image.

        Args:
            ref: The image.
            splits: Bits of the split of its record.
            own: Whether it is of the data that are checked.

        Returns:
            The number of a new image; None for a known one.
        """
        run = self._database.execute
        key = _to_blob(ref.key)
        known = run(
            'SELECT id, splits, own FROM images WHERE key = ?', (key,)
        ).fetchone()
        if known is not None:
            number, before, was_own = known
            if before | splits != before or own > was_own:
                run(
                    'UPDATE images SET splits = ?, own = ? WHERE id = ?',
                    (before | splits, max(own, was_own), number),
                )
            return None
        span = ref.span or Span('', 0, 0)
        names = map(_to_blob, (ref.name, ref.path, span.shard))
        return run(
            'INSERT INTO images (key, own, splits, name, path, shard, '
            'modified, start, stop) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)',
            (key, own, splits, *names, _modified(ref.path), *span[1:]),
        ).lastrowid

    def has_changed(self) -> bool:
        """Return whether an image file is not the one that was added."""
        return any(
            modified != _modified(_from_blob(path))
            for path, modified in self._database.execute(
                "SELECT path, modified FROM images WHERE path != x''"
            )
        )

    def add_facts(self, number: int, facts: ImageFacts) -> None:
        """Add what was measured of an image."""
        value = facts.hash
        if value is not None and value >= _HALF:
            value -= 2 * _HALF
        self._database.execute(
            'UPDATE images SET digest = ?, bytes = ?, width = ?, height = ?, '
            'hash = ?, error = ? WHERE id = ?',
            (
                facts.digest,
                facts.num_bytes,
                facts.width,
                facts.height,
                value,
                facts.error,
                number,
            ),
        )

    def add_text(
        self, digest: bytes, splits: int, own: bool, name: str, start: str
    ) -> None:
        """Add a text of a record."""
        self._database.execute(
            'INSERT INTO texts VALUES (?, ?, ?, ?, ?)',
            (digest, own, splits, _to_blob(name), _to_blob(start)),
        )

    def count_images(self) -> int:
        """Return the number of different images of the data."""
        return self._count(
            'SELECT count(*) FROM images WHERE own AND digest NOT NULL'
        )

    def count_texts(self) -> int:
        """Return the number of different texts of the data."""
        return self._count(
            'SELECT count(DISTINCT digest) FROM texts WHERE own'
        )

    def _count(self, query: str) -> int:
        return self._database.execute(query).fetchone()[0]

    def refs(self, numbers: Sequence[int]) -> list[ImageRef]:
        """Return the images of some numbers, without their bytes."""
        found = []
        for number in numbers:
            name, path, shard, start, stop = self._database.execute(
                'SELECT name, path, shard, start, stop FROM images '
                'WHERE id = ?',
                (number,),
            ).fetchone()
            name, path, shard = map(_from_blob, (name, path, shard))
            span = Span(shard, start, stop) if shard else None
            found.append(ImageRef(name, path, span=span))
        return found

    def sizes(self) -> Iterator[tuple[int, int, int]]:
        """Yield width, height and bytes of the data's readable images."""
        yield from self._database.execute(
            'SELECT width, height, bytes FROM images '
            'WHERE own AND digest NOT NULL AND error IS NULL ORDER BY id'
        )

    def splits(self) -> Iterator[int]:
        """Yield the bits of the splits of each image of the data."""
        for (splits,) in self._database.execute(
            'SELECT splits FROM images WHERE own ORDER BY id'
        ):
            yield splits

    def files(self) -> Iterator[ImageFacts]:
        """Yield the facts of the data's images that are files."""
        for row in self._database.execute(
            'SELECT name, digest, bytes, width, height, NULL, error '
            "FROM images WHERE own AND digest NOT NULL AND path != x'' "
            'ORDER BY id'
        ):
            yield ImageFacts(_from_blob(row[0]), *row[1:])

    def by_digest(self) -> Iterator[ImageRow]:
        """Yield the images that were read, those of an equal file together."""
        for number, digest, value, splits, own in self._database.execute(
            'SELECT id, digest, hash, splits, own FROM images '
            "WHERE digest NOT NULL AND digest != x'' ORDER BY digest, id"
        ):
            if value is not None and value < 0:
                value += 2 * _HALF
            yield ImageRow(number, digest, value, splits, bool(own))

    def repeated_texts(self, both: int) -> Iterable[TextRow]:
        """Yield the texts of several records or splits, in their order.

        Args:
            both: Bits of two splits, of which a text may be.
        """
        query = """
        SELECT min(CASE WHEN own THEN rowid END) AS first, sum(own),
            max(own * (splits & 1)) | max(own * (splits & 2)) AS bits,
            min(own) = 0 AS compared
        FROM texts GROUP BY digest
        HAVING sum(own) > 1 OR sum(own) AND (bits = ? OR compared)
        ORDER BY first"""
        reading = self._database.cursor()
        for first, records, bits, compared in reading.execute(query, (both,)):
            name, start = self._database.execute(
                'SELECT name, start FROM texts WHERE rowid = ?', (first,)
            ).fetchone()
            yield TextRow(
                _from_blob(name),
                _from_blob(start),
                records,
                bits,
                bool(compared),
            )


def _modified(path: str) -> int | None:
    """The time of an image file's last change, in nanoseconds."""
    try:
        return os.stat(path).st_mtime_ns if path else None
    except (OSError, ValueError):
        return None


def _to_blob(text: str) -> bytes:
    """Encode a text that may be a file name without valid UTF-8."""
    return text.encode('utf-8', 'surrogatepass')


def _from_blob(data: bytes) -> str:
    return data.decode('utf-8', 'surrogatepass')
