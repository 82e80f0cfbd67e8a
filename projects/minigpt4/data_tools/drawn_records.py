# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Some records, drawn at random while all of them are read."""

import base64
import heapq
import random
from collections.abc import Iterable
from dataclasses import asdict, replace
from typing import Any

from ..prompts import Turn
from .data_items import DataItem, ImageRef, Span


class DrawnRecords:
    """The records whose random numbers are the smallest.

    The random number of a record depends on its number only, so a check that
    is continued draws the same records.

    Args:
        size: How many are drawn; 0 draws none.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        # a heap of the negative random number, the number and the record
        self._drawn: list[tuple[float, int, DataItem]] = []

    @property
    def items(self) -> list[DataItem]:
        """The records in their order."""
        ordered = sorted(self._drawn, key=lambda drawn: drawn[1])
        return [item for _, _, item in ordered]

    def add(self, number: int, item: DataItem) -> None:
        """Add a record.

        Args:
            number: Its number, which no other record has.
            item: The record.
        """
        entry = (-random.Random(number).random(), number, item)
        if len(self._drawn) < self._size:
            heapq.heappush(self._drawn, entry)
        elif self._size and entry[0] > self._drawn[0][0]:
            heapq.heapreplace(self._drawn, entry)

    def after(self, number: int) -> list[tuple[int, dict[str, Any]]]:
        """Return the records after one, with their numbers, for JSON."""
        return [(n, _to_json(i)) for _, n, i in self._drawn if n > number]

    def restore(self, records: Iterable[tuple[int, dict[str, Any]]]) -> None:
        """Add records that :meth:`after` returned."""
        for number, content in records:
            self.add(number, _from_json(content))


def _to_json(item: DataItem) -> dict[str, Any]:
    content = asdict(item)
    for image in content['images']:
        if image['data'] is not None:
            image['data'] = base64.b64encode(image['data']).decode()
    return content


def _from_json(content: dict[str, Any]) -> DataItem:
    images = []
    for image in content['images']:
        data, span = image['data'], image['span']
        images.append(
            ImageRef(
                image['name'],
                image['path'],
                None if data is None else base64.b64decode(data),
                None if span is None else Span(*span),
            )
        )
    turns = tuple(Turn(**turn) for turn in content['turns'])
    return replace(DataItem(**content), images=tuple(images), turns=turns)
