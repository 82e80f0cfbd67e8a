# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Report the records that are not imported: print some, write all."""

import json
import sys
from collections import Counter
from pathlib import Path

from ..utils.errors import printable
from .import_items import Item

# why a record is skipped
RECORD = 'record is invalid'
IMAGE = 'image is missing'
UNREADABLE = 'image cannot be read'
FETCH = 'image was not fetched'
TEXT = 'text is not for stage 1'
DUPLICATE = 'near duplicate'
_MAX_REASON = 500


class SkippedItems:
    """Counts skipped records, prints the first and writes all as JSON lines.

    Args:
        path: The file to write.
        printed: How many are printed on standard error.

    Attributes:
        counts: Number of skipped records by kind.
    """

    def __init__(self, path: Path, printed: int = 20) -> None:
        self._file = open(path, 'w', encoding='utf-8')  # noqa: SIM115
        self._printed = printed
        self.counts: Counter[str] = Counter()

    @property
    def total(self) -> int:
        """Number of skipped records, without near duplicates."""
        return sum(self.counts.values()) - self.counts[DUPLICATE]

    def add(self, item: Item, kind: str, reason: str) -> None:
        """Count and write a skipped record.

        Args:
            item: Its place.
            kind: One of the constants of this module.
            reason: A phrase that follows the place.
        """
        self.counts[kind] += 1
        reason = printable(reason.strip().rstrip('.'))[:_MAX_REASON]
        row: dict = dict(file=str(item.file))
        if item.number:
            row[item.unit] = item.number
        record = item.record if isinstance(item.record, dict) else {}
        for key in ('id', 'image_id', 'question_id'):
            if isinstance(record.get(key), (int, str)):
                row['id'] = record[key]
                break
        row.update(kind=kind, reason=reason)
        self._file.write(json.dumps(row) + '\n')
        if sum(self.counts.values()) <= self._printed:
            place = printable(item.place)
            print(f'skipped {place}: {reason}', file=sys.stderr)

    def close(self) -> None:
        """Finish the file; report what was not printed."""
        self._file.close()
        rest = sum(self.counts.values()) - self._printed
        if rest > 0:
            print(f'{rest:,} more are not printed', file=sys.stderr)
