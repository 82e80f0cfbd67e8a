# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Slots are allocated, released and compacted without a change of contents."""

import torch

from minigpt4.generation.kv_cache import KVCache
from minigpt4.generation.prefix_cache import PrefixCache


def make_cache(number: int, length: int) -> KVCache:
    """A cache of one layer whose slot ``i`` holds the value ``i + 1``."""
    cache = KVCache()
    assert cache.allocate(number, length) == range(number)
    like = torch.empty(0, 2, 0, 4)
    cache.add_layer(like, like)
    for slot in range(number):
        cache.keys[0][slot, :, :length] = slot + 1
        cache.lengths[slot] = length
    return cache


def values(cache: KVCache, length: int) -> list[float]:
    """The value of each allocated slot."""
    slots = [cache.keys[0][i, :, :length] for i in range(len(cache.lengths))]
    assert all(slot.std() == 0 for slot in slots)
    return [float(slot.mean()) for slot in slots]


def test_the_last_slots_fill_released_ones():
    cache = make_cache(5, 6)
    for slot in (0, 4, 2):
        cache.release(slot)
    assert cache.compact() == [(3, 0)]
    assert values(cache, 6) == [4, 2] and cache.lengths == [6, 6]
    assert cache.allocate(1, 6) == range(2, 3)
    assert cache.lengths == [6, 6, 0]
    cache.clear()
    assert cache.lengths == []


def test_a_larger_capacity_keeps_the_contents():
    cache = make_cache(2, 6)
    capacity = cache.capacity
    cache.allocate(1, capacity + 1)
    assert cache.capacity == 2 * capacity
    assert values(cache, 6)[:2] == [1, 2]


def test_a_prefix_survives_its_slot():
    cache = make_cache(2, 20)
    prefixes = PrefixCache(cache, 100)
    key = list(range(20))
    prefixes.store(key, 1, in_slot=True)
    cache.release(1)
    cache.compact()
    (slot,) = cache.allocate(1, 20)
    assert prefixes.load(slot, [7, *key]) == 0, 'another prompt'
    cache.keys[0][slot] = 9
    cache.lengths[slot] = 20
    (other,) = cache.allocate(1, 20)
    assert prefixes.load(other, [*key, 5]) == 20 == cache.lengths[other]
    assert values(cache, 20) == [1, 9, 2]
    assert prefixes.num_tokens == 20
