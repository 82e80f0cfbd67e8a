# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Skip samples that cannot be used: log the first ones, count all of them."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from mmengine.dataset import Compose
from mmengine.logging import print_log
from torch.utils.data import get_worker_info

from ..utils.errors import printable
from ..utils.sample_errors import OTHER, REASONS, SampleError

MAX_LOGGED = 20  # errors of a kind that each process logs one by one
_MAX_WORKERS = 256  # data workers with counters of their own
_MAX_LINE_CHARACTERS = 600


class WorkerSum:
    """A sum over all data workers of a rank."""

    def __init__(self) -> None:
        # one number per data worker, so that no lock is needed
        self._sums = torch.zeros(_MAX_WORKERS, dtype=torch.int64)
        self._sums.share_memory_()

    def add(self, number: int) -> None:
        """Add a number."""
        self._sums[_worker_row()] += number

    def total(self) -> int:
        """The sum over all data workers."""
        return int(self._sums.sum())


class ErrorCounter:
    """Counts errors by kind, over all data workers of a rank.

    Args:
        kinds: The kinds of errors.
    """

    def __init__(self, kinds: Sequence[str]) -> None:
        self.kinds = tuple(kinds)
        # one line of counters per data worker, so that no lock is needed
        self._counts = torch.zeros(
            _MAX_WORKERS, len(self.kinds), dtype=torch.int64
        )
        self._counts.share_memory_()
        self._num_logged: dict[str, int] = {}

    def add(self, kind: str, message: str | None = None) -> None:
        """Count an error; log the first ones and each 1,000th as a warning.

        Args:
            kind: One of ``kinds``.
            message: The line for the log; None if it was logged earlier.
        """
        self._counts[_worker_row(), self.kinds.index(kind)] += 1
        if message is None:
            return
        number = self._num_logged[kind] = self._num_logged.get(kind, 0) + 1
        if number <= MAX_LOGGED:
            _warn(log_line(message))
        if number == MAX_LOGGED or number % 1000 == 0:
            _warn(
                f'{number:,} errors of the kind "{kind}" in this data worker; '
                'further errors are counted and not logged.'
            )

    def totals(self) -> dict[str, int]:
        """Count of each kind over all data workers, without zeros."""
        sums = self._counts.sum(0).tolist()
        return {k: n for k, n in zip(self.kinds, sums, strict=True) if n}


class SkippingPipeline:
    """Transforms that skip a record which raises :class:`SampleError`.

    Both datasets run their records through it.

    Args:
        transforms: Configs of the transforms, or callables.
    """

    def __init__(self, transforms: Sequence[dict | Callable]) -> None:
        self.transforms = Compose(transforms)
        self._counter = ErrorCounter(REASONS)

    def run(self, name: str, make_record: Callable[[], dict]) -> Any:
        """Turn a record into a sample.

        Args:
            name: Name of the record for the log.
            make_record: Function that returns the record; it may raise
                :class:`SampleError` too.

        Returns:
            The output of the last transform; None for a skipped record.
        """
        try:
            return self.transforms(make_record())
        except SampleError as error:
            self.skip(error.reason, f'{name}: {error}')
            return None

    def skip(self, reason: str, message: str | None = None) -> None:
        """Count a skipped sample and log it.

        Args:
            reason: One of ``REASONS``; any other one counts as ``OTHER``.
            message: Name of the sample and why it is skipped; None if it was
                logged earlier.
        """
        self._counter.add(
            reason if reason in REASONS else OTHER,
            None if message is None else f'skipped {message}',
        )

    @property
    def num_skipped(self) -> int:
        """Samples that all data workers of this rank have skipped."""
        return sum(self._counter.totals().values())

    def totals(self) -> dict[str, int]:
        """Skipped samples by ``'sample: REASON'``."""
        return {f'sample: {k}': n for k, n in self._counter.totals().items()}


def log_line(text: str) -> str:
    """Make a text printable and at most 600 characters long."""
    text = printable(text)
    if len(text) <= _MAX_LINE_CHARACTERS:
        return text
    return f'{text[:_MAX_LINE_CHARACTERS]} ...'


def _worker_row() -> int:
    worker = get_worker_info()
    return worker.id % _MAX_WORKERS if worker else 0


def _warn(text: str) -> None:
    print_log(text, logger='current', level=logging.WARNING)
