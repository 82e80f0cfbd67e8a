# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""What was read and said before, so that it need not be computed again."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .kv_cache import KVCache, Stored

_WORTH_A_COPY = 16  # tokens


@dataclass(eq=False)
class CachedPrefix:
    """Tokens whose keys and values are known.

    Attributes:
        keys: What tells the tokens apart.
        slot: Where they lie in the cache, or None.
        stored: Where they lie if not there.
    """

    keys: Sequence[int]
    slot: int | None
    stored: Stored | None = None


class PrefixCache:
    """Beginnings of prompts whose keys and values are kept.

    They stay in the slot they were computed in until another row needs it,
    and are then taken out. The one that was longest not used goes first.

    Args:
        cache: The slots.
        limit: Tokens that are kept; 0 keeps none.
    """

    def __init__(self, cache: KVCache, limit: int) -> None:
        self._cache = cache
        self._limit = limit
        self._pasts: list[CachedPrefix] = []  # the latest last

    def keep(self, keys: list[int], slot: int, leave_in: bool) -> None:
        """Keep what a slot holds.

        Args:
            keys: The tokens.
            slot: The slot.
            leave_in: Whether nobody needs the slot now.
        """
        if not 0 < len(keys) <= self._limit:
            return
        past = CachedPrefix(keys, slot)
        # what it begins with is known through it
        self._pasts = [p for p in self._pasts if keys[: len(p.keys)] != p.keys]
        self._pasts.append(past)
        total = sum(len(past.keys) for past in self._pasts)
        while total > self._limit:
            total -= len(self._pasts.pop(0).keys)
        if not leave_in:
            self._take_out(past)

    def free(self, slot: int) -> None:
        """Let a row have a slot; what is kept there is taken out."""
        for past in self._pasts:
            if past.slot == slot:
                self._take_out(past)

    def enter(
        self,
        keys: Sequence[int],
        slot: int,
        running: Iterable[CachedPrefix] = (),
    ) -> int:
        """Give a row a slot with the longest known beginning of its prompt.

        Args:
            keys: The prompt; its last token is always computed.
            slot: The slot, which no row has.
            running: What rows that are not ended have in their slots.

        Returns:
            How many tokens are there.
        """
        best, length = None, 0
        wanted = keys[:-1]
        for past in (*running, *self._pasts):
            common = _common(past.keys, wanted)
            if common > length:
                best, length = past, common
        if best in self._pasts:
            self._pasts.remove(best)
            self._pasts.append(best)
        if best is not None and best.slot == slot:
            if len(best.keys) > 2 * length:
                self._take_out(best)
            else:  # at most what was said after it is lost
                self._pasts.remove(best)
            return length
        self.free(slot)
        if best is None or length < _WORTH_A_COPY:
            return 0
        if best.stored is not None:
            self._cache.put_in(slot, best.stored, length)
        elif best.slot is not None:
            self._cache.copy(best.slot, slot, length)
        return length

    def forget(self) -> None:
        """Keep nothing of what was kept."""
        self._pasts.clear()

    def _take_out(self, past: CachedPrefix) -> None:
        assert past.slot is not None
        past.stored = self._cache.take_out(past.slot, len(past.keys))
        past.slot = None


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two lists begin with alike."""
    low, high = 0, min(len(a), len(b))
    if a[:high] == b[:high]:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle
    return low
