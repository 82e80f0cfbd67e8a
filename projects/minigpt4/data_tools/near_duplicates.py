# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Find pairs of 64-bit hashes that differ in few bits.

The hashes are split into one band more than bits may differ, so that two
such hashes agree in at least one band. Only hashes with an equal band are
compared.
"""

from collections.abc import Sequence

import numpy as np

from .image_facts import HASH_BITS

MAX_DISTANCE = 10  # bits; more than that are other images
_ROWS = 2048  # hashes that are compared with a bucket at a time


def near_pairs(hashes: Sequence[int], distance: int) -> list[tuple[int, int]]:
    """Return the pairs of hashes that differ in at most ``distance`` bits.

    Args:
        hashes: Hashes of 64 bits.
        distance: Bits that may differ, 0 to ``MAX_DISTANCE``.

    Returns:
        The indices of each pair, the smaller first, sorted. Of equal hashes
        only the pairs with the first of them are returned.

    Raises:
        ValueError: ``distance`` is out of its range.
    """
    if not 0 <= distance <= MAX_DISTANCE:
        raise ValueError(
            f'the distance of hashes is {distance}; expected 0 to '
            f'{MAX_DISTANCE} bits.'
        )
    first: dict[int, int] = {}
    pairs = set()
    for index, value in enumerate(hashes):
        if (known := first.setdefault(value, index)) != index:
            pairs.add((known, index))
    values = np.fromiter(first, np.uint64, len(first))
    indices = list(first.values())
    if distance and len(values) > 1:
        for i, j in _pairs_of_bands(values, distance):
            a, b = indices[i], indices[j]
            pairs.add((min(a, b), max(a, b)))
    return sorted(pairs)


def _pairs_of_bands(values: np.ndarray, distance: int) -> set[tuple[int, int]]:
    """Return the near pairs of different hashes, as positions."""
    edges = np.linspace(0, HASH_BITS, distance + 2).astype(int)
    found: set[tuple[int, int]] = set()
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        mask = np.uint64((1 << int(high - low)) - 1)
        bands = (values >> np.uint64(low)) & mask
        order = np.argsort(bands, kind='stable')
        ordered = bands[order]
        starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
        ends = np.r_[starts[1:], len(ordered)]
        for start, end in zip(starts, ends, strict=True):
            if end - start > 1:
                found |= _pairs_in(values, order[start:end], distance)
    return found


def _pairs_in(
    values: np.ndarray, bucket: np.ndarray, distance: int
) -> set[tuple[int, int]]:
    """Compare all hashes of a bucket."""
    found = set()
    for start in range(0, len(bucket), _ROWS):
        rows = bucket[start : start + _ROWS]
        differences = values[rows][:, None] ^ values[bucket][None, :]
        near = count_bits(differences) <= distance
        for i, j in np.argwhere(near):
            a, b = int(rows[i]), int(bucket[j])
            if a < b:
                found.add((a, b))
    return found


def count_bits(values: np.ndarray) -> np.ndarray:
    """Count the bits that are set in each value of 64 bits."""
    octets = values[..., None].view(np.uint8)
    return _BITS_OF_OCTET[octets].sum(-1)


_BITS_OF_OCTET = np.array([i.bit_count() for i in range(256)], np.uint8)


def group_pairs(pairs: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Join pairs to groups: the connected components, each sorted."""
    parent: dict[int, int] = {}

    def root(index: int) -> int:
        parent.setdefault(index, index)
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    for a, b in pairs:
        a, b = root(a), root(b)
        parent[max(a, b)] = min(a, b)
    groups: dict[int, list[int]] = {}
    for index in sorted(parent):
        groups.setdefault(root(index), []).append(index)
    return list(groups.values())
