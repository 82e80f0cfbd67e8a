# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Statistics of numbers and texts: quantiles, histograms, scripts."""

import functools
import math
import unicodedata
from array import array
from collections import Counter
from typing import Any, NamedTuple

_NEAR_EMPTY_LETTERS = 3
_SCRIPTS = (
    'LATIN', 'CYRILLIC', 'GREEK', 'ARABIC', 'HEBREW', 'DEVANAGARI',
    'BENGALI', 'TAMIL', 'THAI', 'HANGUL', 'HIRAGANA', 'KATAKANA', 'CJK',
)  # fmt: skip


class Bar(NamedTuple):
    """A bar of a histogram.

    Attributes:
        low: Smallest value that it counts.
        high: Value above those that it counts; of the last bar the largest.
        number: How many values it counts.
    """

    low: float
    high: float
    number: int


class Numbers:
    """Collects numbers of 8 bytes each."""

    def __init__(self) -> None:
        self.values = array('d')

    def add(self, value: float) -> None:
        """Add a number."""
        self.values.append(value)

    def share_above(self, limit: float) -> float:
        """Return the share of the numbers above a limit, 0 to 1."""
        above = sum(value > limit for value in self.values)
        return above / len(self.values) if self.values else 0.0

    def summary(self) -> dict[str, Any]:
        """Return count, mean, and the minimum, quantiles and maximum."""
        ordered = sorted(self.values)
        if not ordered:
            return dict(count=0)
        last = len(ordered) - 1
        quantiles = dict(
            min=0.0, p5=0.05, median=0.5, p95=0.95, p99=0.99, max=1.0
        )
        return dict(
            count=len(ordered),
            mean=round(math.fsum(ordered) / len(ordered), 4),
            **{k: ordered[round(q * last)] for k, q in quantiles.items()},
        )

    def histogram(self, max_bars: int = 30) -> list[Bar]:
        """Return a histogram of bars of equal width.

        Whole numbers get bars of a whole width. Numbers above three times
        the 99th percentile are counted in the last bar.
        """
        ordered = sorted(self.values)
        if not ordered:
            return []
        low, high = ordered[0], ordered[-1]
        bulk = ordered[round(0.99 * (len(ordered) - 1))]
        top = min(high, 3 * bulk) if bulk > 0 else high
        is_whole = all(value.is_integer() for value in ordered)
        width = (top - low) / max_bars
        if is_whole:
            width = max(1, math.ceil((top - low + 1) / max_bars))
        if not width:
            return [Bar(low, high, len(ordered))]
        count = max(1, math.ceil((top - low) / width))
        if is_whole:
            count = int((top - low) // width) + 1
        counts = [0] * count
        for value in ordered:
            counts[min(int((value - low) / width), count - 1)] += 1
        bars = [
            Bar(low + i * width, low + (i + 1) * width, n)
            for i, n in enumerate(counts)
        ]
        if high > bars[-1].high:
            bars[-1] = bars[-1]._replace(high=high)
        return bars


def is_near_empty(text: str) -> bool:
    """Return whether a text has fewer than three letters or digits."""
    number = 0
    for char in text:
        number += char.isalnum()
        if number >= _NEAR_EMPTY_LETTERS:
            return False
    return True


@functools.lru_cache(4096)
def _script_of(char: str) -> str:
    name = unicodedata.name(char, '')
    return next((s for s in _SCRIPTS if name.startswith(s)), 'OTHER')


def main_script(text: str) -> str:
    """Return the script of most letters of a text, such as ``'Latin'``.

    It is a cheap hint of the language. ``'none'`` for a text without
    letters.
    """
    scripts = Counter(_script_of(char) for char in text if char.isalpha())
    if not scripts:
        return 'none'
    script = scripts.most_common(1)[0][0]
    return script if script == 'CJK' else script.capitalize()
