# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The reviews of a ledger, and the edits in progress.

Reviews belong to a text, not to a key: a person's decision stays valid as
long as the text under review is the same.
"""

import hashlib
import json
import time
from collections.abc import Sequence
from typing import NamedTuple

from .ledger_file import LedgerFile

DECISIONS = ('accept', 'edit', 'reject', 'none')


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


class Reviews:
    """The reviews of a ledger.

    Args:
        file: The file of the ledger.
    """

    def __init__(self, file: LedgerFile) -> None:
        self._file = file

    def add(self, *reviews: Review) -> None:
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
        with self._file.transaction(durable=True) as database:
            database.executemany(
                'INSERT INTO reviews (image, reviewed, reviewer, decision, '
                'text, note, created) VALUES (?, ?, ?, ?, ?, ?, ?)',
                [(*review[:-1], review.created or now) for review in reviews],
            )

    def latest(
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
            for row in self._file.select(
                'SELECT image, reviewed, reviewer, decision, text, note, '
                'created FROM reviews WHERE id IN (SELECT MAX(id) FROM '
                f'reviews {where} GROUP BY image, reviewed, reviewer) AND '
                "decision != 'none' ORDER BY image, id",
                values,
            )
        ]

    def save_draft(
        self, image: int, reviewed: str, reviewer: str, text: str | None
    ) -> None:
        """Store an edit in progress instead of the last; None deletes it.

        It is on disk when this returns.
        """
        key = (image, reviewed, reviewer)
        with self._file.transaction(durable=True) as database:
            if text is None:
                database.execute(
                    'DELETE FROM drafts WHERE image = ? AND reviewed = ? AND '
                    'reviewer = ?',
                    key,
                )
            else:
                database.execute(
                    'INSERT OR REPLACE INTO drafts VALUES (?, ?, ?, ?, ?)',
                    (*key, text, time.time()),
                )

    def draft(
        self, image: int, reviewed: str, reviewer: str
    ) -> tuple[str, float] | None:
        """Return an edit in progress and when it was saved, or None."""
        return next(
            self._file.select(
                'SELECT text, saved FROM drafts WHERE image = ? AND '
                'reviewed = ? AND reviewer = ?',
                (image, reviewed, reviewer),
            ),
            None,
        )
