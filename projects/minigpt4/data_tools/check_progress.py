# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""What a check has read, in a database from which it can be continued.

A check reads its data in pieces: a shard, or some thousand records of
another kind of data. With each complete piece one transaction stores the
images and texts of the piece and what was counted. A check that is killed so
loses one piece; see :meth:`.scan.Scan.read`. The database is removed when a
check is complete.
"""

import contextlib
import json
import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..utils.locks import FolderLock
from ..utils.sqlite_errors import translated_errors
from ..weights.file_digests import compute_digest
from .known_images import KnownData

PROGRESS_FOLDER = '.check'
_TABLES = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
CREATE TABLE IF NOT EXISTS description (content TEXT);
CREATE TABLE IF NOT EXISTS pieces (number INTEGER PRIMARY KEY, state TEXT);
CREATE TABLE IF NOT EXISTS digests (
    path TEXT PRIMARY KEY, bytes INT, modified INT, digest TEXT);
"""


class CheckProgress:
    """The stored pieces of a check; a context manager.

    Args:
        folder: The folder of the report.
        description: What the pieces depend on, for JSON. Pieces that were
            stored with another description are removed.

    Attributes:
        known: The images and texts of the stored pieces.
        num_stored: How many pieces an earlier check has stored.
        is_changed: Whether an earlier check had another description.

    Raises:
        LockedError: On entering: another check writes into the folder.
        OSError: On entering: the folder cannot be written.
    """

    known: KnownData

    def __init__(self, folder: Path, description: dict[str, Any]) -> None:
        self._folder = folder / PROGRESS_FOLDER
        self._path = self._folder / 'progress.sqlite'
        self._description = json.dumps(description)
        self._following = 0
        self.num_stored = 0
        self.is_changed = False

    def __enter__(self) -> 'CheckProgress':
        with contextlib.ExitStack() as stack:
            stack.enter_context(FolderLock(self._folder, 'check'))
            stack.enter_context(translated_errors(self._path, '--out'))
            try:
                self._open()
            except sqlite3.DatabaseError:  # damaged, or of another version
                self._remove()
                self._open()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> bool | None:
        self._database.close()  # forgets the piece that is incomplete
        return self._stack.__exit__(*error)

    def _open(self) -> None:
        self._database = sqlite3.connect(self._path, isolation_level=None)
        self._database.executescript(_TABLES)
        self.known = KnownData(self._database)
        run = self._database.execute
        found = run('SELECT content FROM description').fetchone()
        if found is not None:
            self.num_stored = self._count_pieces()
            if found[0] == self._description and not self.known.has_changed():
                run('BEGIN')
                return
            self.is_changed = self.num_stored > 0
            self.num_stored = 0
            self._database.close()
            self._remove()
            self._open()
            return
        run('INSERT INTO description VALUES (?)', (self._description,))
        run('BEGIN')

    def _count_pieces(self) -> int:
        query = 'SELECT count(*) FROM pieces'
        return self._database.execute(query).fetchone()[0]

    def _remove(self) -> None:
        for suffix in ('', '-wal', '-shm'):
            Path(f'{self._path}{suffix}').unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the database of a check that is complete."""
        self._database.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def next_state(self) -> dict[str, Any] | None:
        """Return the state of the next piece; None if it is to be read."""
        row = self._database.execute(
            'SELECT state FROM pieces WHERE number = ?', (self._following,)
        ).fetchone()
        if row is None:
            return None
        self._following += 1
        return json.loads(row[0])

    def store(self, state: dict[str, Any]) -> None:
        """Store the state of a piece that was read, and what is known."""
        self._database.execute(
            'INSERT INTO pieces VALUES (?, ?)',
            (self._following, json.dumps(state)),
        )
        self._following += 1
        self._commit()

    def digest(self, path: Path) -> str:
        """Return the SHA-256 of a file; it is read once.

        Raises:
            OSError: It cannot be read.
        """
        found = path.stat()
        state = found.st_size, found.st_mtime_ns
        row = self._database.execute(
            'SELECT bytes, modified, digest FROM digests WHERE path = ?',
            (os.fsencode(path),),
        ).fetchone()
        if row is not None and row[:2] == state:
            return row[2]
        digest = compute_digest(path)
        self._database.execute(
            'REPLACE INTO digests VALUES (?, ?, ?, ?)',
            (os.fsencode(path), *state, digest),
        )
        self._commit()
        return digest

    def _commit(self) -> None:
        self._database.execute('COMMIT')
        self._database.execute('BEGIN')


@contextlib.contextmanager
def check_progress(
    folder: 'Path | None', description: dict[str, Any]
) -> 'Iterator[CheckProgress | None]':
    """Open the progress of a check; None without a folder."""
    if folder is None:
        yield None
        return
    with CheckProgress(folder, description) as progress:
        yield progress
