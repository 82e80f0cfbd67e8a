# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Faults of the data: the first ones are named in the log, all are counted.

:class:`FaultLog` counts, over all data workers; :class:`SkippedSamples` counts
the samples that a dataset of either stage leaves out, by these reasons.
"""

import logging

import torch
from mmengine.logging import print_log
from torch.utils.data import get_worker_info

from .errors import printable

# reasons why a sample is left out
NO_IMAGE = 'image is missing'
IMAGE = 'image cannot be read'
CAPTION = 'caption cannot be used'
RECORD = 'record cannot be used'
FEATURES = 'features are damaged'
OTHER = 'other'
REASONS = (IMAGE, NO_IMAGE, CAPTION, RECORD, FEATURES, OTHER)

NAMED = 20  # faults of a kind that each process names one by one
_ROWS = 256  # data workers with a row of their own
_MAX_LINE = 600  # characters


class FaultLog:
    """Counts faults by kind, over all data workers of a rank.

    Args:
        kinds: What is counted.
    """

    def __init__(self, kinds: 'tuple[str, ...]') -> None:
        self.kinds = kinds
        # a row for each data worker, so that none waits for another
        self._counts = torch.zeros(_ROWS, len(kinds), dtype=torch.int64)
        self._counts.share_memory_()
        self._named: dict[str, int] = {}

    def add(self, kind: str, message: str | None = None) -> None:
        """Count a fault; warn of the first ones and of each 1,000th.

        Args:
            kind: One of ``kinds``.
            message: What the log names; None where it was named before.
        """
        worker = get_worker_info()
        row = worker.id % _ROWS if worker else 0
        self._counts[row, self.kinds.index(kind)] += 1
        if message is None:
            return
        named = self._named[kind] = self._named.get(kind, 0) + 1
        if named <= NAMED:
            _warn(log_line(message))
        if named == NAMED or named % 1000 == 0:
            _warn(
                f'{named:,} faults of the kind "{kind}" in this data worker; '
                'further ones are counted, and not named.'
            )

    def totals(self) -> dict[str, int]:
        """Faults of all data workers by kind, without those of none."""
        sums = self._counts.sum(0).tolist()
        return {k: n for k, n in zip(self.kinds, sums, strict=True) if n}


class SkippedSamples:
    """Counts the samples that a dataset leaves out, by ``REASONS``."""

    def __init__(self) -> None:
        self._log = FaultLog(REASONS)

    def add(self, reason: str, message: str | None = None) -> None:
        """Count a sample, and name it in the log.

        Args:
            reason: One of ``REASONS``; any other one counts as ``OTHER``.
            message: Which sample it is and why it is left out; None where
                the log named it before.
        """
        self._log.add(
            reason if reason in REASONS else OTHER,
            None if message is None else f'skipped {message}',
        )

    def __len__(self) -> int:
        return sum(self._log.totals().values())

    def totals(self) -> dict[str, int]:
        """Samples of all data workers by ``'sample: REASON'``."""
        return {f'sample: {k}': n for k, n in self._log.totals().items()}


def log_line(text: str) -> str:
    """A text for one line of the log: printable, 600 characters at most."""
    text = printable(text)
    return text if len(text) <= _MAX_LINE else f'{text[:_MAX_LINE]} ...'


def _warn(text: str) -> None:
    print_log(text, logger='current', level=logging.WARNING)
