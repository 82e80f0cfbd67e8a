# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Faults of the data: named a few times, counted always."""

import logging

import torch
from mmengine.logging import print_log
from torch.utils.data import get_worker_info

from ..errors import printable

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

    def add(self, kind: str, message: str) -> None:
        """Count a fault; warn of the first ones and of each 1,000th."""
        worker = get_worker_info()
        row = worker.id % _ROWS if worker else 0
        self._counts[row, self.kinds.index(kind)] += 1
        named = self._named[kind] = self._named.get(kind, 0) + 1
        if named <= NAMED:
            text = printable(message)
            if len(text) > _MAX_LINE:
                text = text[:_MAX_LINE] + ' ...'
            _warn(text)
        if named == NAMED or named % 1000 == 0:
            _warn(
                f'{named:,} faults of the kind "{kind}" in this data worker; '
                'further ones are counted, and not named.'
            )

    def totals(self) -> dict[str, int]:
        """Faults of all data workers by kind, without those of none."""
        sums = self._counts.sum(0).tolist()
        return {k: n for k, n in zip(self.kinds, sums, strict=True) if n}


def _warn(text: str) -> None:
    print_log(text, logger='current', level=logging.WARNING)
