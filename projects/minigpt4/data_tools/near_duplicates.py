# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Find pairs and groups of 64-bit hashes that differ in few bits.

The hashes are split into some bands more than bits may differ, so that two
such hashes agree in at least that many bands. Only hashes that agree in so
many bands are compared. More hashes get more bands, so that the number of
comparisons of random hashes grows with their number and not with its square.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np

from .image_facts import HASH_BITS

MAX_DISTANCE = 10  # bits; more than that are other images
_MAX_EQUAL_BANDS = 4  # 1,001 choices of bands for 10 bits
_COMPARED = 8  # random hashes that a hash is compared with, at most
_COLLECTED = 1 << 21  # pairs, before they are joined to groups


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
    found = [np.empty((0, 2), np.int64), *_pairs(hashes, distance)]
    pairs = np.unique(np.concatenate(found), axis=0)
    return [(int(a), int(b)) for a, b in pairs]


def near_groups(hashes: Sequence[int], distance: int) -> list[list[int]]:
    """Join the pairs of :func:`near_pairs` to groups.

    Args:
        hashes: Hashes of 64 bits.
        distance: Bits that may differ, 0 to ``MAX_DISTANCE``.

    Returns:
        The connected components: indices, sorted.

    Raises:
        ValueError: ``distance`` is out of its range.
    """
    joined = np.empty((0, 2), np.int64)
    collected, number = [joined], 0
    for pairs in _pairs(hashes, distance):
        collected.append(pairs)
        number += len(pairs)
        if number > _COLLECTED:
            joined = _join(np.concatenate(collected), len(hashes))
            collected, number = [joined], 0
    joined = _join(np.concatenate(collected), len(hashes))
    groups: dict[int, list[int]] = {}
    for first, index in joined.tolist():
        groups.setdefault(first, [first]).append(index)
    return sorted(groups.values())


def _join(pairs: np.ndarray, size: int) -> np.ndarray:
    """Return a pair of the first index of a group and each other one."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not len(pairs):
        return pairs
    graph = coo_array(
        (np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), (size, size)
    )
    _, labels = connected_components(graph, directed=False)
    _, firsts = np.unique(labels, return_index=True)
    first = firsts[labels]
    others = np.flatnonzero(first != np.arange(size))
    return np.stack([first[others], others], 1)


def _pairs(hashes: Sequence[int], distance: int) -> Iterator[np.ndarray]:
    """Yield arrays of near pairs, ``(N, 2)``; a pair may be there twice.

    Raises:
        ValueError: ``distance`` is out of its range.
    """
    if not 0 <= distance <= MAX_DISTANCE:
        raise ValueError(
            f'the distance of hashes is {distance}; expected 0 to '
            f'{MAX_DISTANCE} bits.'
        )
    values, firsts, same = np.unique(
        np.asarray(hashes, np.uint64), return_index=True, return_inverse=True
    )
    firsts, same = firsts.astype(np.int64), firsts[same.reshape(-1)]
    repeated = np.flatnonzero(same != np.arange(len(same)))
    yield np.stack([same[repeated], repeated], 1)
    if distance:
        for a, b in _pairs_of_bands(values, distance):
            yield np.sort(np.stack([firsts[a], firsts[b]], 1), axis=1)


def _pairs_of_bands(
    values: np.ndarray, distance: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the near pairs of different hashes, as positions."""
    equal = next(
        number
        for number in range(1, _MAX_EQUAL_BANDS + 1)
        if number == _MAX_EQUAL_BANDS
        or len(values) >> (number * HASH_BITS // (distance + number))
        < _COMPARED
    )
    edges = np.linspace(0, HASH_BITS, distance + equal + 1).astype(int)
    bands = [
        np.uint64(((1 << int(high)) - 1) & ~((1 << int(low)) - 1))
        for low, high in zip(edges[:-1], edges[1:], strict=True)
    ]
    for chosen in combinations(bands, equal):
        mask = np.bitwise_or.reduce(np.array(chosen))
        yield from _pairs_of_mask(values, mask, distance)


def _pairs_of_mask(
    values: np.ndarray, mask: np.uint64, distance: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Compare the hashes that have the same bits of a mask."""
    order = np.argsort(values & mask, kind='stable')
    ordered = values[order]
    keys = ordered & mask
    places = np.arange(len(keys))
    step = 0
    while True:
        step += 1
        places = places[places + step < len(keys)]
        places = places[keys[places] == keys[places + step]]
        if not len(places):
            return
        differences = ordered[places] ^ ordered[places + step]
        near = places[count_bits(differences) <= distance]
        if len(near):
            yield order[near], order[near + step]


def count_bits(values: np.ndarray) -> np.ndarray:
    """Count the bits that are set in each value of 64 bits."""
    octets = values[..., None].view(np.uint8)
    return _BITS_OF_OCTET[octets].sum(-1)


_BITS_OF_OCTET = np.array([i.bit_count() for i in range(256)], np.uint8)
