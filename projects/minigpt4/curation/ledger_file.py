# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The SQLite file of a ledger: its tables, queries and transactions."""

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ..utils.atomic import make_folder
from ..utils.sqlite_errors import (
    DatabaseError,
    check_writable,
    translated_errors,
)

_OPTION = '--ledger'  # for errors
_APPLICATION_ID = 0x4D475043  # 'MGPC', in the header of the file
_SCHEMA_VERSION = 1
_LOCK_SECONDS = 60.0
_FETCHED = 256  # rows at a time
_SCHEMA = f"""
CREATE TABLE images (
    id INTEGER PRIMARY KEY,  -- the order of the images
    digest TEXT NOT NULL UNIQUE,
    path NOT NULL,  -- TEXT; BLOB if the name is not valid Unicode
    details TEXT NOT NULL  -- JSON: source, licence, captions, objects, ...
);
CREATE TABLE steps (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    settings TEXT NOT NULL,  -- JSON
    created REAL NOT NULL  -- seconds since 1970
);
CREATE TABLE results (
    id INTEGER PRIMARY KEY,
    step INTEGER NOT NULL,
    image INTEGER NOT NULL,
    status TEXT NOT NULL,  -- ok, dropped or failed
    text TEXT NOT NULL,
    details TEXT NOT NULL,  -- JSON
    created REAL NOT NULL
);
CREATE UNIQUE INDEX final_results ON results (step, image)
    WHERE status != 'failed';
CREATE INDEX failed_results ON results (step, image) WHERE status = 'failed';
CREATE INDEX dropped_results ON results (step, image)
    WHERE status = 'dropped';
CREATE INDEX flagged_results ON results
    (step, image, json_array_length(details, '$.flags'))
    WHERE json_array_length(details, '$.flags') > 0;
CREATE TABLE claims (
    step INTEGER NOT NULL,
    image INTEGER NOT NULL,
    owner TEXT NOT NULL,  -- HOST:PID
    until REAL NOT NULL,
    PRIMARY KEY (step, image)
) WITHOUT ROWID;
CREATE TABLE reviews (
    id INTEGER PRIMARY KEY,
    image INTEGER NOT NULL,
    reviewed TEXT NOT NULL,  -- digest of the text under review
    reviewer TEXT NOT NULL,
    decision TEXT NOT NULL,  -- accept, edit, reject or none (undone)
    text TEXT NOT NULL,  -- the accepted text
    note TEXT NOT NULL,
    created REAL NOT NULL
);
CREATE INDEX reviews_of ON reviews (image, reviewed, reviewer, id);
CREATE TABLE drafts (  -- edits in progress
    image INTEGER NOT NULL,
    reviewed TEXT NOT NULL,
    reviewer TEXT NOT NULL,
    text TEXT NOT NULL,
    saved REAL NOT NULL,
    PRIMARY KEY (image, reviewed, reviewer)
) WITHOUT ROWID;
CREATE TABLE settings (
    id INTEGER PRIMARY KEY,  -- the last one counts
    settings TEXT NOT NULL,  -- JSON
    created REAL NOT NULL
);
PRAGMA application_id = {_APPLICATION_ID};
PRAGMA user_version = {_SCHEMA_VERSION};
"""


class LedgerFile:
    """One connection to the file of a ledger, for several threads.

    Args:
        path: The file. It is created if it does not exist.

    Raises:
        DatabaseError: The file is no ledger, or of another version.
        OSError: It cannot be read and written.
    """

    def __init__(self, path: 'str | Path') -> None:
        self.path = Path(path)
        self._lock = threading.RLock()
        make_folder(self.path.parent)
        check_writable(self.path, _OPTION)
        with translated_errors(self.path, _OPTION):
            # absolute, or SQLite may read "file:..." as a URI
            self._database = sqlite3.connect(
                os.path.abspath(self.path),
                timeout=_LOCK_SECONDS,
                isolation_level=None,
                check_same_thread=False,
            )
        try:
            self._create_or_check()
        except BaseException:
            self._database.close()
            raise

    def close(self) -> None:
        """Close the connection."""
        self._database.close()

    def select(
        self, query: str, values: 'Sequence | Mapping' = ()
    ) -> Iterator[tuple]:
        """Iterate over the rows of a SELECT statement."""
        with translated_errors(self.path, _OPTION):
            with self._lock:
                cursor = self._database.execute(query, values)
                rows = cursor.fetchmany(_FETCHED)
            while rows:
                yield from rows
                with self._lock:
                    rows = cursor.fetchmany(_FETCHED)

    @contextlib.contextmanager
    def transaction(
        self, durable: bool = False
    ) -> Iterator[sqlite3.Connection]:
        """Run a transaction that writes.

        Args:
            durable: Whether it survives a power failure.
        """
        with translated_errors(self.path, _OPTION), self._lock:
            if durable:
                self._database.execute('PRAGMA synchronous = FULL')
            self._database.execute('BEGIN IMMEDIATE')
            try:
                yield self._database
                self._database.execute('COMMIT')
            except BaseException:
                with contextlib.suppress(sqlite3.Error):  # the first counts
                    self._database.execute('ROLLBACK')
                raise
            finally:
                if durable:
                    self._database.execute('PRAGMA synchronous = NORMAL')

    def _create_or_check(self) -> None:
        """Create the tables of a new file; refuse other databases."""
        with translated_errors(self.path, _OPTION):
            # before the first read: the mode stays in the file
            self._database.execute('PRAGMA journal_mode = WAL')
            self._database.execute('PRAGMA synchronous = NORMAL')
            self._database.execute('BEGIN IMMEDIATE')
            try:
                application, version, tables = (
                    self._database.execute(query).fetchone()[0]
                    for query in (
                        'PRAGMA application_id',
                        'PRAGMA user_version',
                        'SELECT COUNT(*) FROM sqlite_master',
                    )
                )
                if not (application or version or tables):
                    for statement in _SCHEMA.split(';\n'):
                        self._database.execute(statement)
                    application, version = _APPLICATION_ID, _SCHEMA_VERSION
            finally:
                self._database.execute('COMMIT')
        if application != _APPLICATION_ID:
            raise DatabaseError(
                f'{self.path} is a database of another program; give another '
                'ledger.'
            )
        if version != _SCHEMA_VERSION:
            raise DatabaseError(
                f'{self.path} is a ledger of version {version}; this release '
                f'reads version {_SCHEMA_VERSION}.'
            )
