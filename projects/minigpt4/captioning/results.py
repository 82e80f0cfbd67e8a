# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Results database of ``minigpt4 caption``: one SQLite file, one writer.

The database holds the results of one model, checkpoint and set of sampling
parameters. Each batch of results is one transaction, so a killed run loses
no result that was added. While it is open, the database is locked against
other processes; the system releases the lock of a process that ends.

Write-ahead logging with ``synchronous=NORMAL``: a transaction costs one
write and no fsync. A power failure can lose the last transactions, never
damage the database. Exclusive locking also works without shared memory, which
network file systems lack.
"""

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..utils.atomic import make_folder
from ..utils.sqlite_errors import (
    DamagedDatabaseError,
    DatabaseError,
    check_writable,
    damaged_error,
    translated_errors,
)

ResultKey = tuple[str, str]  # absolute path of the image, prompt

_APPLICATION_ID = 0x4D475034  # 'MGP4', in the header of the file
_SCHEMA_VERSION = 1
_LOCK_SECONDS = 1.0  # two processes that start together: one of them succeeds
_SCHEMA = f"""
CREATE TABLE provenance (
    model TEXT NOT NULL,
    weights TEXT,
    settings TEXT NOT NULL  -- JSON
);
CREATE TABLE results (
    id INTEGER PRIMARY KEY,
    position INTEGER,  -- in the exports; NULL comes last
    image NOT NULL,  -- TEXT; BLOB if the name is not valid Unicode
    prompt NOT NULL,  -- TEXT; BLOB if it is not valid Unicode
    caption TEXT,
    error TEXT,
    finished INTEGER,
    tokens INTEGER,
    bytes INTEGER,
    modified_ns INTEGER
);
PRAGMA application_id = {_APPLICATION_ID};
PRAGMA user_version = {_SCHEMA_VERSION};
"""
_ORDER = 'ORDER BY position IS NULL, position, id'
_COLUMNS = (
    'image',
    'prompt',
    'caption',
    'error',
    'finished',
    'tokens',
    'bytes',
    'modified_ns',
)


@dataclass(frozen=True)
class CaptionResult:
    """The answer to one prompt about one image, or why there is none.

    Attributes:
        image: Path of the image, as the user named it.
        prompt: The prompt.
        caption: The answer; None after an error.
        error: Why there is no answer; None if there is one.
        finished: Whether the model ended the answer; False where it was cut
            at ``max_new_tokens``.
        tokens: Length of the answer in tokens.
        bytes: Size of the image file; None if it cannot be read.
        modified_ns: Modification time of the image file, in nanoseconds.
        model: Name of the model, or of its config.
        weights: Digest of the checkpoint; None for the published one.
        settings: Sampling parameters that differ from those of the model.
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
    settings: dict[str, Any] | None = None

    @property
    def key(self) -> ResultKey:
        """Results of equal keys answer the same prompt about one image."""
        return os.path.abspath(self.image), self.prompt

    @property
    def provenance(self) -> dict[str, Any]:
        """What the answer depends on besides image and prompt."""
        return dict(
            model=self.model, weights=self.weights, settings=self.settings
        )


class _Entry(NamedTuple):
    """What the index of the database stores about a result."""

    id: int
    image_state: tuple[int, int] | None  # bytes, modified_ns; None on error
    error: str | None


class ResultsDatabase:
    """The results of ``minigpt4 caption``, resumable; a context manager.

    Args:
        path: The database file. It is created if it does not exist, and
            removed by :meth:`close` if it has no results.
        provenance: ``model``, ``weights`` and ``settings`` of all results.
        overwrite: Whether to remove the results of earlier runs.

    Raises:
        NotRegularFileError: ``path`` is a FIFO, a device or a folder.
        DatabaseError: The file is no results database, is damaged, or holds
            results of another model, checkpoint or settings.
        BlockingIOError: Another process uses it.
        OSError: It cannot be written.
    """

    def __init__(
        self, path: Path, provenance: dict[str, Any], overwrite: bool = False
    ) -> None:
        self.path = path
        self.provenance = provenance
        self._index: dict[ResultKey, _Entry] = {}
        make_folder(path.parent)
        check_writable(path)
        self._database = self._open(overwrite)
        try:
            if overwrite:
                self._clear()
            self._read_index()
            self._check_provenance()
        except BaseException:
            self._database.close()
            raise

    def __enter__(self) -> 'ResultsDatabase':
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._index)

    def keys(self) -> list[ResultKey]:
        """List the keys of all results."""
        return list(self._index)

    def image_state(self, key: ResultKey) -> tuple[int, int] | None:
        """Size and modification time of an image when it was answered.

        Returns:
            Bytes and nanoseconds; None without an answer.
        """
        entry = self._index.get(key)
        return entry and entry.image_state

    def error(self, key: ResultKey) -> str | None:
        """The error of a result; None if it has an answer, or is missing."""
        entry = self._index.get(key)
        return entry and entry.error

    def add(self, results: Iterable[CaptionResult]) -> None:
        """Store results in one transaction.

        A result replaces an older one of the same key. An error that is
        stored already is not stored again.
        """
        added: dict[ResultKey, _Entry] = {}
        with self._transaction():
            for result in results:
                old = added.get(result.key) or self._index.get(result.key)
                if old and result.error and result.error == old.error:
                    continue
                if old:
                    self._delete([old.id])
                added.pop(result.key, None)  # a replaced result moves last
                added[result.key] = _entry(self._insert(result), result)
        for key, entry in added.items():
            self._index.pop(key, None)
            self._index[key] = entry

    def remove(self, keys: Sequence[ResultKey]) -> None:
        """Delete results in one transaction."""
        with self._transaction():
            self._delete([self._index[key].id for key in keys])
        for key in keys:
            del self._index[key]

    def sort(self, keys: Sequence[ResultKey]) -> None:
        """Order the results by a list of keys; the others follow, as before.

        Args:
            keys: The keys; those without a result are ignored.
        """
        first = {key: None for key in keys if key in self._index}
        ordered = [*first, *(key for key in self._index if key not in first)]
        if ordered == list(self._index):
            return
        index = {key: self._index[key] for key in ordered}
        with self._transaction():
            self._database.executemany(
                'UPDATE results SET position = ? WHERE id = ?',
                ((i, entry.id) for i, entry in enumerate(index.values())),
            )
        self._index = index

    def results(self) -> Iterator[CaptionResult]:
        """Iterate over all results, in the order of :meth:`sort`."""
        with translated_errors(self.path):
            for row in self._database.execute(
                f'SELECT {", ".join(_COLUMNS)} FROM results {_ORDER}'
            ):
                fields = dict(zip(_COLUMNS, map(_from_sql, row), strict=True))
                if fields['finished'] is not None:
                    fields['finished'] = bool(fields['finished'])
                yield CaptionResult(**fields, **self.provenance)

    def close(self) -> None:
        """Close the database; one without results is removed."""
        with translated_errors(self.path), contextlib.closing(self._database):
            if not self._index:
                # removes the log; the file is removed while it is locked
                self._database.execute('PRAGMA journal_mode = DELETE')
                self.path.unlink(missing_ok=True)

    def _open(self, overwrite: bool) -> sqlite3.Connection:
        """Open and lock the file, and create its tables."""
        while True:
            with translated_errors(self.path):
                # absolute, or SQLite may read "file:..." as a URI
                database = sqlite3.connect(
                    os.path.abspath(self.path),
                    timeout=_LOCK_SECONDS,
                    isolation_level=None,
                )
            try:
                with translated_errors(self.path):
                    database.execute('PRAGMA locking_mode = EXCLUSIVE')
                    database.execute('BEGIN EXCLUSIVE')
                    database.execute('COMMIT')  # this mode keeps the lock
                    if self.path.exists():  # another run may have removed it
                        _check_format(database, self.path)
                        database.execute('PRAGMA journal_mode = WAL')
                        database.execute('PRAGMA synchronous = NORMAL')
                        return database
            except DamagedDatabaseError:
                if not overwrite:
                    database.close()
                    raise
                self._remove_files()
            except BaseException:
                database.close()
                raise
            database.close()

    def _remove_files(self) -> None:
        for suffix in ('', '-wal', '-shm', '-journal'):
            Path(f'{self.path}{suffix}').unlink(missing_ok=True)

    def _read_index(self) -> None:
        duplicates = []  # relative names of runs in different folders
        with translated_errors(self.path):
            for id_, *fields in self._database.execute(
                'SELECT id, image, prompt, error, bytes, modified_ns '
                f'FROM results {_ORDER}'
            ):
                image, prompt, error, n_bytes, time = map(_from_sql, fields)
                result = CaptionResult(
                    image,
                    prompt,
                    error=error,
                    bytes=n_bytes,
                    modified_ns=time,
                )
                if old := self._index.pop(result.key, None):
                    duplicates.append(old.id)
                self._index[result.key] = _entry(id_, result)
        if duplicates:
            with self._transaction():
                self._delete(duplicates)

    def _check_provenance(self) -> None:
        """Refuse results of another model, checkpoint or settings."""
        with self._transaction():
            row = self._database.execute(
                'SELECT model, weights, settings FROM provenance'
            ).fetchone()
            if row is None or not self._index:
                now = self.provenance
                self._database.execute('DELETE FROM provenance')
                self._database.execute(
                    'INSERT INTO provenance VALUES (?, ?, ?)',
                    (now['model'], now['weights'], _json(now['settings'])),
                )
                return
        try:
            settings = json.loads(row[2])
        except (TypeError, ValueError) as error:
            raise damaged_error(self.path, 'no settings') from error
        found = dict(model=row[0], weights=row[1], settings=settings)
        require_provenance(found, self.provenance, self.path)

    def _insert(self, result: CaptionResult) -> int:
        values = [_to_sql(getattr(result, column)) for column in _COLUMNS]
        cursor = self._database.execute(
            f'INSERT INTO results ({", ".join(_COLUMNS)}) '
            f'VALUES ({", ".join("?" * len(_COLUMNS))})',
            values,
        )
        return cursor.lastrowid or 0

    def _delete(self, ids: Iterable[int]) -> None:
        self._database.executemany(
            'DELETE FROM results WHERE id = ?', ((id_,) for id_ in ids)
        )

    def _clear(self) -> None:
        with self._transaction():
            self._database.execute('DELETE FROM results')
            self._database.execute('DELETE FROM provenance')

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        with translated_errors(self.path):
            self._database.execute('BEGIN')
            try:
                yield
                self._database.execute('COMMIT')
            except BaseException:
                with contextlib.suppress(sqlite3.Error):  # the first counts
                    self._database.execute('ROLLBACK')
                raise


def require_provenance(
    found: dict[str, Any], expected: dict[str, Any], source: object
) -> None:
    """Refuse results of another model, checkpoint or settings.

    Args:
        found: The provenance of stored results.
        expected: The provenance of this run.
        source: What holds the results, for the error.

    Raises:
        DatabaseError: They differ.
    """
    for name, now in expected.items():
        if found[name] != now:
            raise DatabaseError(
                f'{source} holds answers with {name} {found[name]}, now it '
                f'is {now}; give another -o, or --overwrite to begin again.'
            )


def _check_format(database: sqlite3.Connection, path: Path) -> None:
    """Create the tables of a new file; refuse other databases.

    Raises:
        DatabaseError: The file has other tables, or another version of them.
        DamagedDatabaseError: The file is damaged.
    """
    application, version, tables = (
        database.execute(query).fetchone()[0]
        for query in (
            'PRAGMA application_id',
            'PRAGMA user_version',
            'SELECT COUNT(*) FROM sqlite_master',
        )
    )
    if not (application or version or tables):
        database.executescript(f'BEGIN; {_SCHEMA} COMMIT;')
        return
    if application != _APPLICATION_ID:
        raise DatabaseError(
            f'{path} is a database of another program; give another -o.'
        )
    if version != _SCHEMA_VERSION:
        raise DatabaseError(
            f'{path} has version {version} of the results database; this '
            f'release reads version {_SCHEMA_VERSION}. Give another -o, or '
            'use the release that wrote it.'
        )
    report = database.execute('PRAGMA quick_check(1)').fetchone()[0]
    if report != 'ok':
        raise damaged_error(path, ' '.join(report.split()))


def _entry(id_: int, result: CaptionResult) -> _Entry:
    state = None
    if result.error is None and result.bytes is not None:
        state = result.bytes, result.modified_ns or 0
    return _Entry(id_, state, result.error)


def _json(settings: 'dict[str, Any] | None') -> str:
    return json.dumps(settings, ensure_ascii=False)


def _to_sql(value: Any) -> Any:
    """Encode a text that is not valid Unicode (a file name) as a BLOB."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return value.encode(errors='surrogatepass')
    return value


def _from_sql(value: Any) -> Any:
    """Undo :func:`_to_sql`."""
    if isinstance(value, bytes):
        return value.decode(errors='surrogatepass')
    return value
