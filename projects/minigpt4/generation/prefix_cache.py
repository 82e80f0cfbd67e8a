# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Prefix cache: K and V of earlier prompts and answers, for reuse."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

from ..prompts import IMAGE_SLOT
from .kv_cache import KVCache, OffloadedKV

MIN_COPIED_TOKENS = 16  # a shorter prefix is computed again


@dataclass(eq=False)
class CachedPrefix:
    """Tokens whose K and V are stored.

    Attributes:
        key: Its cache key; see :func:`make_cache_key`.
        slot: The KV slot with K and V, or None where they are offloaded.
        offloaded: K and V, where they are not in a slot.
    """

    key: Sequence[int]
    slot: int | None
    offloaded: OffloadedKV | None = None


class PrefixCache:
    """K and V of released requests, by their cache keys.

    They stay in their KV slot until another request needs it, and are
    offloaded then. The least recently used prefix is dropped first.

    Args:
        kv_cache: The KV slots.
        max_tokens: The most tokens that are stored; 0 stores none.
    """

    def __init__(self, kv_cache: KVCache, max_tokens: int) -> None:
        self._kv_cache = kv_cache
        self._max_tokens = max_tokens
        self._prefixes: list[CachedPrefix] = []  # most recently used last

    @property
    def num_tokens(self) -> int:
        """Number of tokens that are stored."""
        return sum(len(prefix.key) for prefix in self._prefixes)

    def store(self, key: Sequence[int], slot: int, in_slot: bool) -> None:
        """Store the tokens of a slot that is about to be released.

        Args:
            key: Their cache key.
            slot: The slot.
            in_slot: Whether they may stay there; else they are offloaded.
        """
        if not 0 < len(key) <= self._max_tokens:
            return
        stored = CachedPrefix(key, slot)
        # drop prefixes of the new one
        self._prefixes = [
            p for p in self._prefixes if key[: len(p.key)] != p.key
        ]
        self._prefixes.append(stored)
        total = self.num_tokens
        while total > self._max_tokens:
            total -= len(self._prefixes.pop(0).key)
        if not in_slot:
            self._offload(stored)

    def offload(self, slot: int) -> None:
        """Offload what is stored in a slot, so that it can be overwritten."""
        for prefix in self._prefixes:
            if prefix.slot == slot:
                self._offload(prefix)

    def load(
        self,
        slot: int,
        key: Sequence[int],
        running: Iterable[CachedPrefix] = (),
    ) -> int:
        """Load the longest cached prefix of a prompt into a slot.

        The last token of the prompt is never loaded, because its scores are
        needed. What another request stored in the slot is offloaded first.

        Args:
            slot: A slot that was just allocated.
            key: Cache key of the prompt.
            running: Tokens in the slots of running requests.

        Returns:
            The number of tokens that were loaded, also set as the length of
            the slot.
        """
        best, length = None, 0
        prompt = key[:-1]
        for prefix in (*running, *self._prefixes):
            common = _common_length(prefix.key, prompt)
            if common > length:
                best, length = prefix, common
        if best in self._prefixes:
            self._prefixes.remove(best)
            self._prefixes.append(best)
        if best is not None and best.slot == slot:
            if len(best.key) > 2 * length:
                self._offload(best)
            else:  # only the tokens behind the common prefix are lost
                self._prefixes.remove(best)
        else:
            self.offload(slot)
            if best is None or length < MIN_COPIED_TOKENS:
                length = 0
            elif best.offloaded is not None:
                self._kv_cache.restore_slot(slot, best.offloaded, length)
            elif best.slot is not None:
                self._kv_cache.copy_slot(best.slot, slot, length)
        self._kv_cache.lengths[slot] = length
        return length

    def clear(self) -> None:
        """Drop all stored tokens."""
        self._prefixes.clear()

    def _offload(self, prefix: CachedPrefix) -> None:
        assert prefix.slot is not None
        prefix.offloaded = self._kv_cache.offload_slot(
            prefix.slot, len(prefix.key)
        )
        prefix.slot = None


def image_digest(image: Tensor) -> int:
    """Hash an image's pixels to a negative number (128 bits).

    Token ids are never negative, so a cache key can hold both.
    """
    data = image.contiguous().cpu().numpy().tobytes()
    digest = hashlib.blake2b(data, digest_size=16).digest()
    return -1 - int.from_bytes(digest, 'big')


def make_cache_key(
    token_ids: Sequence[int], digests: Sequence[int], num_image_tokens: int
) -> list[int]:
    """Return the cache key of a prompt, one number for each position.

    It is the id of a token, and for the positions of an image its digest.

    Args:
        token_ids: The prompt, with ``IMAGE_SLOT`` for each image.
        digests: :func:`image_digest` of its images, in order.
        num_image_tokens: Positions of one image.
    """
    remaining = iter(digests)
    key: list[int] = []
    for token in token_ids:
        if token == IMAGE_SLOT:
            key += [next(remaining)] * num_image_tokens
        else:
            key.append(token)
    return key


def _common_length(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the common prefix of two sequences."""
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
