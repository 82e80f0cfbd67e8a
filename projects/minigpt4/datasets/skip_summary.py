# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Count what a reader skips, with the names of the first items."""

from collections import Counter

from ..utils.errors import printable

MAX_NAMES = 3  # of each kind and reason


class SkipSummary:
    """Counts skipped items by kind and reason."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()
        self._names: dict[tuple[str, str], list[str]] = {}

    def add(self, kind: str, reason: str, name: str) -> None:
        """Count a skipped item.

        Args:
            kind: The noun, with a plural in s, e.g. ``'image'``.
            reason: What follows the noun, e.g. ``'without a caption'``.
            name: Names the item; what is wrong with it may follow.
        """
        self._counts[kind, reason] += 1
        names = self._names.setdefault((kind, reason), [])
        if len(names) < MAX_NAMES:
            names.append(name)

    def __bool__(self) -> bool:
        return bool(self._counts)

    def lines(self) -> list[str]:
        """Describe them, e.g. ``2 images without a caption (a.jpg; b.jpg)``.

        Returns:
            A line for each kind and reason, with up to ``MAX_NAMES`` names.
        """
        lines = []
        for key, number in self._counts.items():
            kind, reason = key
            names = self._names[key]
            if number > len(names):
                names = [*names, f'{number - len(names):,} more']
            text = f'{counted(number, kind)} {reason} ({"; ".join(names)})'
            lines.append(printable(text))
        return lines


def counted(number: int, noun: str) -> str:
    """A number with its noun, e.g. ``1 image`` or ``2 images``."""
    return f'{number:,} {noun}{"" if number == 1 else "s"}'
