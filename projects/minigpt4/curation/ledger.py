# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The ledger of a curation: every result of every step, in one SQLite file.

Rows are added and never changed, except claims and drafts. A step is
identified by its key, a digest of its settings and of the keys of the steps
before it (:mod:`.pipeline`): with other settings it has another key, so its
old results no longer count, while those of earlier steps do. An image is
identified by the digest of its file.

Several processes may work on one ledger. A process claims images before it
works on them; the claim ends with the result, after :data:`CLAIM_SECONDS`, or
when its process no longer runs on this host.

Reviews belong to a text, not to a key: a person's decision stays valid as
long as the text under review is the same.
"""

import contextlib
import hashlib
import json
import os
import socket
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..utils.atomic import make_folder
from ..utils.processes import is_running
from ..utils.sqlite_errors import (
    DatabaseError,
    check_writable,
    translated_errors,
)

CLAIM_SECONDS = 900.0
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
STATUSES = ('ok', 'dropped', 'failed')
DECISIONS = ('accept', 'edit', 'reject', 'none')


class LedgerImage(NamedTuple):
    """An image of a ledger.

    Attributes:
        id: Its number, in the order of the images.
        digest: SHA-256 of its file, in hexadecimal.
        path: Absolute path.
        details: What is known about it, e.g. ``source``, ``licence``,
            ``objects``.
    """

    id: int
    digest: str
    path: str
    details: dict[str, Any]


class Result(NamedTuple):
    """The result of a step for an image.

    Attributes:
        image: Number of the image.
        status: ``'ok'``, ``'dropped'`` (no later step sees it) or
            ``'failed'`` (the next run tries again).
        text: The text; of a failure the reason.
        details: Anything else, as JSON: tokens, flags, costs, reasons.
    """

    image: int
    status: str
    text: str
    details: dict[str, Any]


class Review(NamedTuple):
    """A person's decision on a text.

    Attributes:
        image: Number of the image.
        reviewed: Digest of the text under review, of :func:`text_digest`.
        reviewer: Name of the person.
        decision: ``'accept'``, ``'edit'``, ``'reject'``, or ``'none'`` after
            an earlier decision was undone.
        text: The accepted text; for ``'edit'`` the new one.
        note: A remark.
        created: Seconds since 1970.
    """

    image: int
    reviewed: str
    reviewer: str
    decision: str
    text: str
    note: str = ''
    created: float = 0.0


def text_digest(text: str) -> str:
    """Return the digest of a text by which reviews find it."""
    return hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()


class Ledger:
    """The ledger of a curation; a context manager.

    Args:
        path: The file. It is created if it does not exist.

    Raises:
        DatabaseError: The file is no ledger, or of another version.
        OSError: It cannot be read and written.
    """

    def __init__(self, path: 'str | Path') -> None:
        self.path = Path(path)
        self._lock = threading.RLock()  # one connection, several threads
        self.owner = f'{socket.gethostname()}:{os.getpid()}'
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

    def __enter__(self) -> 'Ledger':
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the claims of this process and close the file."""
        with contextlib.closing(self._database):
            self.release_claims()

    def add_images(
        self, images: Iterable[tuple[str, str, Mapping[str, Any]]]
    ) -> int:
        """Add images that the ledger does not have yet.

        Args:
            images: Digest, absolute path and details of each. The path and
                the details of a known digest are replaced.

        Returns:
            How many were new.
        """
        with self._transaction():
            before = self._count('images')
            self._database.executemany(
                'INSERT INTO images (digest, path, details) VALUES (?, ?, ?) '
                'ON CONFLICT (digest) DO UPDATE SET path = excluded.path, '
                'details = excluded.details',
                (
                    (digest, _to_sql(path), _dump(details))
                    for digest, path, details in images
                ),
            )
            return self._count('images') - before

    def images(
        self,
        ids: Sequence[int] | None = None,
        after: int = 0,
        limit: int | None = None,
    ) -> list[LedgerImage]:
        """Return images in their order.

        Args:
            ids: Numbers of images; None is all.
            after: Only images of larger numbers.
            limit: The most images; None is all.
        """
        where = ''
        if ids is not None:
            where = 'AND id IN (SELECT value FROM json_each(:ids))'
        return [
            _image(row)
            for row in self._execute(
                'SELECT id, digest, path, details FROM images WHERE id > '
                f':after {where} ORDER BY id LIMIT :limit',
                dict(
                    ids=json.dumps([*(ids or ())]),
                    after=after,
                    limit=-1 if limit is None else limit,
                ),
            )
        ]

    @property
    def num_images(self) -> int:
        """Number of images."""
        with translated_errors(self.path, _OPTION):
            return self._count('images')

    def add_step(self, key: str, name: str, settings: Mapping) -> int:
        """Return the number of a step's key, after adding it if it is new."""
        with self._transaction():
            self._database.execute(
                'INSERT OR IGNORE INTO steps (key, name, settings, created) '
                'VALUES (?, ?, ?, ?)',
                (key, name, _dump(settings), time.time()),
            )
            (found,) = self._database.execute(
                'SELECT id FROM steps WHERE key = ?', (key,)
            ).fetchone()
            return found

    def steps(self) -> list[tuple[int, str, str, dict[str, Any]]]:
        """List all steps ever run: number, key, name and settings."""
        return [
            (id_, key, name, json.loads(settings))
            for id_, key, name, settings in self._execute(
                'SELECT id, key, name, settings FROM steps ORDER BY id'
            )
        ]

    def claim(
        self,
        step: int,
        previous: int | None,
        limit: int,
        after: int = 0,
        retry: bool = True,
    ) -> list[tuple[LedgerImage, Result | None]]:
        """Claim images that a step has no result for.

        Args:
            step: Number of the step.
            previous: Number of the step before it, whose ``'ok'`` results it
                takes; None takes all images.
            limit: The most images.
            after: Only images of larger numbers, so that a run tries each
                image once.
            retry: Whether images that failed are claimed again.

        Returns:
            The images in their order, with their results of the step before.
        """
        source = (
            'SELECT i.id AS image FROM images i WHERE i.id > :after'
            if previous is None
            else 'SELECT image FROM results WHERE step = :previous '
            "AND status = 'ok' AND status != 'failed' AND image > :after"
        )
        final = '' if not retry else "AND r.status != 'failed'"
        with self._transaction():
            self._release_dead_claims(step)
            found = [
                image
                for (image,) in self._database.execute(
                    f'SELECT s.image FROM ({source}) s WHERE NOT EXISTS '
                    '(SELECT 1 FROM results r WHERE r.step = :step AND '
                    f'r.image = s.image {final}) AND NOT '
                    'EXISTS (SELECT 1 FROM claims c WHERE c.step = :step AND '
                    'c.image = s.image) ORDER BY s.image LIMIT :limit',
                    dict(
                        after=after, previous=previous, step=step, limit=limit
                    ),
                )
            ]
            until = time.time() + CLAIM_SECONDS
            self._database.executemany(
                'INSERT INTO claims VALUES (?, ?, ?, ?)',
                ((step, image, self.owner, until) for image in found),
            )
        results: dict[int, Result] = {}
        if previous is not None:
            results = {r.image: r for r in self.results(previous, found)}
        return [(image, results.get(image.id)) for image in self.images(found)]

    def is_claimed(self, step: int) -> bool:
        """Whether a process works on a step."""
        with self._transaction():
            self._release_dead_claims(step)
            return bool(
                self._database.execute(
                    'SELECT EXISTS (SELECT 1 FROM claims WHERE step = ?)',
                    (step,),
                ).fetchone()[0]
            )

    def renew_claims(self) -> None:
        """Extend the claims of this process, e.g. once a minute."""
        with self._transaction():
            self._database.execute(
                'UPDATE claims SET until = ? WHERE owner = ?',
                (time.time() + CLAIM_SECONDS, self.owner),
            )

    def release_claims(self, step: int | None = None) -> None:
        """End the claims of this process, on one step or on all."""
        with self._transaction():
            self._database.execute(
                'DELETE FROM claims WHERE owner = ? AND step = '
                'COALESCE(?, step)',
                (self.owner, step),
            )

    def add_results(self, step: int, results: Iterable[Result]) -> None:
        """Store results in one transaction, and end their claims.

        The first result of an image that is no failure counts; later ones are
        not stored.
        """
        now = time.time()
        rows = [(step, *r[:3], _dump(r.details), now) for r in results]
        with self._transaction():
            self._database.executemany(
                'INSERT OR IGNORE INTO results (step, image, status, text, '
                'details, created) VALUES (?, ?, ?, ?, ?, ?)',
                rows,
            )
            self._database.executemany(
                'DELETE FROM claims WHERE step = ? AND image = ?',
                (row[:2] for row in rows),
            )

    def results(
        self, step: int, images: Sequence[int] | None = None
    ) -> Iterator[Result]:
        """Iterate over the results of a step that are no failures.

        Args:
            step: Number of the step.
            images: Numbers of images; None is all.
        """
        where, values = '', [step]
        if images is not None:
            where = 'AND image IN (SELECT value FROM json_each(?))'
            values.append(json.dumps([*images]))  # type: ignore[arg-type]
        for image, status, text, details in self._execute(
            'SELECT image, status, text, details FROM results WHERE step = ? '
            f"AND status != 'failed' {where} ORDER BY image",
            values,
        ):
            yield Result(image, status, text, json.loads(details))

    def dropped(self, step: int) -> Iterator[Result]:
        """Iterate over the images that a step dropped, in their order."""
        for image, status, text, details in self._execute(
            'SELECT image, status, text, details FROM results WHERE step = ? '
            "AND status = 'dropped' ORDER BY image",
            (step,),
        ):
            yield Result(image, status, text, json.loads(details))

    def failures(self, step: int) -> list[Result]:
        """Return the last failure of each image that has no other result."""
        rows = self._execute(
            'SELECT image, status, text, details, MAX(id) FROM results f '
            "WHERE step = ? AND status = 'failed' AND NOT EXISTS (SELECT 1 "
            'FROM results r WHERE r.step = f.step AND r.image = f.image AND '
            "r.status != 'failed') GROUP BY image ORDER BY image",
            (step,),
        )
        return [
            Result(image, status, text, json.loads(details))
            for image, status, text, details, _ in rows
        ]

    def counts(self, step: int) -> dict[str, int]:
        """Count the results of a step: ``ok``, ``dropped``, ``failed``.

        A failed image counts once, and only while it has no other result.
        """
        final, dropped = (
            next(self._execute(query, (step,)))[0]
            for query in (
                'SELECT COUNT(*) FROM results WHERE step = ? AND '
                "status != 'failed'",
                'SELECT COUNT(*) FROM results WHERE step = ? AND '
                "status = 'dropped'",
            )
        )
        return dict(
            ok=final - dropped,
            dropped=dropped,
            failed=len(self.failures(step)),
        )

    def sum_details(
        self, name: str, field: str, after: int = 0
    ) -> tuple[float, int]:
        """Add up a number in the details of all results of a step.

        Args:
            name: Name of the step; with any settings it ever had.
            field: The key of the number; results without it count 0.
            after: Only results that are newer than an earlier call's.

        Returns:
            The sum, failures included, and what ``after`` is next time.
        """
        total, last = next(
            self._execute(
                "SELECT TOTAL(json_extract(details, '$.' || :field)), "
                'COALESCE(MAX(id), :after) FROM results WHERE id > :after '
                'AND step IN (SELECT id FROM steps WHERE name = :name)',
                dict(name=name, field=field, after=after),
            )
        )
        return total, last

    def period(self, step: int) -> tuple[float, float] | None:
        """Return when the first and the last result of a step were stored.

        Failures do not count.

        Args:
            step: Number of the step.

        Returns:
            Seconds since 1970; None without a result.
        """
        first, last = next(
            self._execute(
                'SELECT MIN(created), MAX(created) FROM results WHERE '
                "step = ? AND status != 'failed'",
                (step,),
            )
        )
        return None if first is None else (first, last)

    def add_review(self, review: Review) -> None:
        """Store a decision; it is on disk when this returns.

        Raises:
            ValueError: The decision is none of :data:`DECISIONS`.
        """
        self.add_reviews([review])

    def add_reviews(self, reviews: Sequence[Review]) -> None:
        """Store decisions, all or none; they are on disk when this returns.

        Raises:
            ValueError: A decision is none of :data:`DECISIONS`.
        """
        for review in reviews:
            if review.decision not in DECISIONS:
                raise ValueError(
                    f'the decision is {review.decision!r}; expected one of '
                    f'{", ".join(DECISIONS)}.'
                )
        now = time.time()
        with self._transaction(durable=True):
            self._database.executemany(
                'INSERT INTO reviews (image, reviewed, reviewer, decision, '
                'text, note, created) VALUES (?, ?, ?, ?, ?, ?, ?)',
                [(*review[:-1], review.created or now) for review in reviews],
            )

    def save_draft(
        self, image: int, reviewed: str, reviewer: str, text: str | None
    ) -> None:
        """Store an edit in progress instead of the last; None deletes it.

        It is on disk when this returns.
        """
        key = (image, reviewed, reviewer)
        with self._transaction(durable=True):
            if text is None:
                self._database.execute(
                    'DELETE FROM drafts WHERE image = ? AND reviewed = ? AND '
                    'reviewer = ?',
                    key,
                )
            else:
                self._database.execute(
                    'INSERT OR REPLACE INTO drafts VALUES (?, ?, ?, ?, ?)',
                    (*key, text, time.time()),
                )

    def draft(
        self, image: int, reviewed: str, reviewer: str
    ) -> tuple[str, float] | None:
        """Return an edit in progress and when it was saved, or None."""
        return next(
            self.select(
                'SELECT text, saved FROM drafts WHERE image = ? AND '
                'reviewed = ? AND reviewer = ?',
                (image, reviewed, reviewer),
            ),
            None,
        )

    def reviews(
        self, images: int | Sequence[int] | None = None
    ) -> list[Review]:
        """Return the last review of each image, text and reviewer.

        Undone decisions (``'none'``) are omitted.

        Args:
            images: Number of an image, or several; None is all.
        """
        where = ''
        values: tuple = ()
        if images is not None:
            numbers = [images] if isinstance(images, int) else [*images]
            where = 'WHERE image IN (SELECT value FROM json_each(?))'
            values = (json.dumps(numbers),)
        return [
            Review(*row)
            for row in self._execute(
                'SELECT image, reviewed, reviewer, decision, text, note, '
                'created FROM reviews WHERE id IN (SELECT MAX(id) FROM '
                f'reviews {where} GROUP BY image, reviewed, reviewer) AND '
                "decision != 'none' ORDER BY image, id",
                values,
            )
        ]

    def select(
        self, query: str, values: 'Sequence | Mapping' = ()
    ) -> Iterator[tuple]:
        """Iterate over the rows of a SELECT statement, from any thread."""
        return self._execute(query, values)

    def save_settings(self, settings: Mapping[str, Any]) -> None:
        """Store the settings of a run, unless they are the last ones."""
        if settings == self.settings():
            return
        with self._transaction():
            self._database.execute(
                'INSERT INTO settings (settings, created) VALUES (?, ?)',
                (_dump(settings), time.time()),
            )

    def settings(self) -> dict[str, Any] | None:
        """Return the settings of the last run; None before the first."""
        rows = self._execute(
            'SELECT settings FROM settings ORDER BY id DESC LIMIT 1'
        )
        return next((json.loads(row[0]) for row in rows), None)

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

    def _release_dead_claims(self, step: int) -> None:
        """End claims that are too old or whose process has ended."""
        host = self.owner.rpartition(':')[0]
        now = time.time()
        owners = self._database.execute(
            'SELECT owner, MAX(until) FROM claims WHERE step = ? GROUP BY '
            'owner',
            (step,),
        ).fetchall()
        for owner, until in owners:
            name, _, pid = owner.rpartition(':')
            dead = name == host and not is_running(int(pid))
            if dead or until < now:
                self._database.execute(
                    'DELETE FROM claims WHERE step = ? AND owner = ?',
                    (step, owner),
                )

    def _count(self, table: str) -> int:
        return self._database.execute(
            f'SELECT COUNT(*) FROM {table}'
        ).fetchone()[0]

    def _execute(
        self, query: str, values: 'Sequence | Mapping' = ()
    ) -> Iterator[tuple]:
        """Iterate over the rows of a query, from any thread."""
        with translated_errors(self.path, _OPTION):
            with self._lock:
                cursor = self._database.execute(query, values)
                rows = cursor.fetchmany(_FETCHED)
            while rows:
                yield from rows
                with self._lock:
                    rows = cursor.fetchmany(_FETCHED)

    @contextlib.contextmanager
    def _transaction(self, durable: bool = False) -> Iterator[None]:
        """Run a transaction that writes.

        Args:
            durable: Whether it survives a power failure.
        """
        with translated_errors(self.path, _OPTION), self._lock:
            if durable:
                self._database.execute('PRAGMA synchronous = FULL')
            self._database.execute('BEGIN IMMEDIATE')
            try:
                yield
                self._database.execute('COMMIT')
            except BaseException:
                with contextlib.suppress(sqlite3.Error):  # the first counts
                    self._database.execute('ROLLBACK')
                raise
            finally:
                if durable:
                    self._database.execute('PRAGMA synchronous = NORMAL')


def _image(row: tuple) -> LedgerImage:
    id_, digest, path, details = row
    if isinstance(path, bytes):
        path = path.decode(errors='surrogateescape')
    return LedgerImage(id_, digest, path, json.loads(details))


def _to_sql(path: str) -> 'str | bytes':
    """Encode a file name that is not valid Unicode as a BLOB."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return path.encode(errors='surrogateescape')
    return path


def _dump(value: Mapping) -> str:
    return json.dumps(value, ensure_ascii=True, sort_keys=True)
