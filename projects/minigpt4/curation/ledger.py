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

:class:`~.reviews.Reviews` are in the same file.
"""

import contextlib
import json
import os
import socket
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..utils.processes import is_running
from .ledger_file import LedgerFile
from .reviews import Reviews

CLAIM_SECONDS = 900.0
STATUSES = ('ok', 'dropped', 'failed')


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


class Ledger:
    """The ledger of a curation; a context manager.

    Args:
        path: The file. It is created if it does not exist.

    Attributes:
        path: The file.
        owner: This process, as its claims name it.
        reviews: The reviews in the file.
        select: Iterates over the rows of a SELECT statement.

    Raises:
        DatabaseError: The file is no ledger, or of another version.
        OSError: It cannot be read and written.
    """

    def __init__(self, path: 'str | Path') -> None:
        self.owner = f'{socket.gethostname()}:{os.getpid()}'
        self._file = LedgerFile(path)
        self.path = self._file.path
        self.select = self._file.select
        self.reviews = Reviews(self._file)

    def __enter__(self) -> 'Ledger':
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the claims of this process and close the file."""
        with contextlib.closing(self._file):
            self.release_claims()

    def add_images(
        self, images: Iterable[tuple[str, str, Mapping[str, Any]]]
    ) -> int:
        """Add images that the ledger does not have yet.

        Args:
            images: Digest, absolute path and details of each. Those of a
                known digest replace its path and the details of the same
                name; its other details are kept.

        Returns:
            How many were new.
        """
        with self._file.transaction() as database:
            before = _count_images(database)
            database.executemany(
                'INSERT INTO images (digest, path, details) VALUES (?, ?, ?) '
                'ON CONFLICT (digest) DO UPDATE SET path = excluded.path, '
                'details = json_patch(details, excluded.details)',
                (
                    (digest, _to_sql(path), _dump(details))
                    for digest, path, details in images
                ),
            )
            return _count_images(database) - before

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
            for row in self.select(
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
        return next(self.select('SELECT COUNT(*) FROM images'))[0]

    def add_step(self, key: str, name: str, settings: Mapping) -> int:
        """Return the number of a step's key, after adding it if it is new."""
        with self._file.transaction() as database:
            database.execute(
                'INSERT OR IGNORE INTO steps (key, name, settings, created) '
                'VALUES (?, ?, ?, ?)',
                (key, name, _dump(settings), time.time()),
            )
            (found,) = database.execute(
                'SELECT id FROM steps WHERE key = ?', (key,)
            ).fetchone()
            return found

    def steps(self) -> list[tuple[int, str, str, dict[str, Any]]]:
        """List all steps ever run: number, key, name and settings."""
        return [
            (id_, key, name, json.loads(settings))
            for id_, key, name, settings in self.select(
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
        with self._file.transaction() as database:
            self._release_dead_claims(database, step)
            found = [
                image
                for (image,) in database.execute(
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
            database.executemany(
                'INSERT INTO claims VALUES (?, ?, ?, ?)',
                ((step, image, self.owner, until) for image in found),
            )
        results: dict[int, Result] = {}
        if previous is not None:
            results = {r.image: r for r in self.results(previous, found)}
        return [(image, results.get(image.id)) for image in self.images(found)]

    def is_claimed(self, step: int) -> bool:
        """Whether a process works on a step."""
        with self._file.transaction() as database:
            self._release_dead_claims(database, step)
            return bool(
                database.execute(
                    'SELECT EXISTS (SELECT 1 FROM claims WHERE step = ?)',
                    (step,),
                ).fetchone()[0]
            )

    def renew_claims(self) -> None:
        """Extend the claims of this process, e.g. once a minute."""
        with self._file.transaction() as database:
            database.execute(
                'UPDATE claims SET until = ? WHERE owner = ?',
                (time.time() + CLAIM_SECONDS, self.owner),
            )

    def release_claims(self, step: int | None = None) -> None:
        """End the claims of this process, on one step or on all."""
        with self._file.transaction() as database:
            database.execute(
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
        with self._file.transaction() as database:
            database.executemany(
                'INSERT OR IGNORE INTO results (step, image, status, text, '
                'details, created) VALUES (?, ?, ?, ?, ?, ?)',
                rows,
            )
            database.executemany(
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
        for image, status, text, details in self.select(
            'SELECT image, status, text, details FROM results WHERE step = ? '
            f"AND status != 'failed' {where} ORDER BY image",
            values,
        ):
            yield Result(image, status, text, json.loads(details))

    def dropped(self, step: int) -> Iterator[Result]:
        """Iterate over the images that a step dropped, in their order."""
        for image, status, text, details in self.select(
            'SELECT image, status, text, details FROM results WHERE step = ? '
            "AND status = 'dropped' ORDER BY image",
            (step,),
        ):
            yield Result(image, status, text, json.loads(details))

    def failures(self, step: int) -> list[Result]:
        """Return the last failure of each image that has no other result."""
        rows = self.select(
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
            next(self.select(query, (step,)))[0]
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
            self.select(
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
            self.select(
                'SELECT MIN(created), MAX(created) FROM results WHERE '
                "step = ? AND status != 'failed'",
                (step,),
            )
        )
        return None if first is None else (first, last)

    def save_settings(self, settings: Mapping[str, Any]) -> None:
        """Store the settings of a run, unless they are the last ones."""
        if settings == self.settings():
            return
        with self._file.transaction() as database:
            database.execute(
                'INSERT INTO settings (settings, created) VALUES (?, ?)',
                (_dump(settings), time.time()),
            )

    def settings(self) -> dict[str, Any] | None:
        """Return the settings of the last run; None before the first."""
        rows = self.select(
            'SELECT settings FROM settings ORDER BY id DESC LIMIT 1'
        )
        return next((json.loads(row[0]) for row in rows), None)

    def _release_dead_claims(
        self, database: sqlite3.Connection, step: int
    ) -> None:
        """End claims that are too old or whose process has ended."""
        host = self.owner.rpartition(':')[0]
        now = time.time()
        owners = database.execute(
            'SELECT owner, MAX(until) FROM claims WHERE step = ? GROUP BY '
            'owner',
            (step,),
        ).fetchall()
        for owner, until in owners:
            name, _, pid = owner.rpartition(':')
            dead = name == host and not is_running(int(pid))
            if dead or until < now:
                database.execute(
                    'DELETE FROM claims WHERE step = ? AND owner = ?',
                    (step, owner),
                )


def _count_images(database: sqlite3.Connection) -> int:
    return database.execute('SELECT COUNT(*) FROM images').fetchone()[0]


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
