# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Near duplicates of images by a perceptual hash of 64 bits."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from ..images.read import read_image
from ..utils.sample_errors import SampleError

HASH_BITS = 64
DEFAULT_DISTANCE = 4
# beyond it a part of the hash that must be equal has fewer than 4 bits
MAX_DISTANCE = 15
_THREADS = 4
_PAIRS_PER_STEP = 1 << 22


def load_hash() -> Callable[[Any], int]:
    """The function that hashes an RGB image: pHash of imagehash.

    Raises:
        ImportError: imagehash is not installed.
    """
    try:
        import imagehash
        import scipy.fftpack  # noqa: F401
    except ImportError as error:
        raise ImportError(
            'near duplicates are found with ImageHash, which is not '
            "installed; run: pip install 'minigpt4[curate]'."
        ) from error

    def hash_of(image: Any) -> int:
        bits = imagehash.phash(image).hash.flatten()
        return int.from_bytes(np.packbits(bits).tobytes(), 'big')

    return hash_of


def hash_images(
    sources: Iterable['str | bytes'],
) -> Iterator['int | SampleError']:
    """Hash images in threads.

    Args:
        sources: Paths or encoded images.

    Yields:
        The hash of each image; the error of one that cannot be read.

    Raises:
        ImportError: imagehash is not installed.
    """
    hash_of = load_hash()

    def hash_one(source: 'str | bytes') -> 'int | SampleError':
        try:
            return hash_of(read_image(source))
        except SampleError as error:
            return error

    with ThreadPoolExecutor(_THREADS) as pool:
        batch: list[str | bytes] = []
        for source in sources:
            batch.append(source)
            if len(batch) == 16 * _THREADS:
                yield from pool.map(hash_one, batch)
                batch = []
        yield from pool.map(hash_one, batch)


def near_pairs(hashes: Sequence[int], distance: int) -> Iterator[np.ndarray]:
    """Find all pairs of hashes that differ in at most ``distance`` bits.

    The bits are cut into ``distance + 1`` bands. Two such hashes have an
    equal band, so only hashes with an equal band are compared.

    Args:
        hashes: Different hashes of ``HASH_BITS`` bits.
        distance: Number of bits, 0 to ``MAX_DISTANCE``.

    Yields:
        Arrays ``(N, 2)`` of two indices, the smaller one first; a pair may
        be in several arrays.
    """
    values = np.array(hashes, dtype=np.uint64)
    edges = np.linspace(0, HASH_BITS, distance + 2).astype(int)
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        mask = np.uint64((1 << int(high - low)) - 1)
        bands = (values >> np.uint64(low)) & mask
        order = np.argsort(bands, kind='stable')
        changes = np.flatnonzero(np.diff(bands[order])) + 1
        for group in np.split(order, changes):
            if len(group) > 1:
                yield from _pairs_in(values, np.sort(group), distance)


def _pairs_in(
    values: np.ndarray, group: np.ndarray, distance: int
) -> Iterator[np.ndarray]:
    """Compare all hashes of a group, some rows at a time."""
    members = values[group]
    rows = max(1, _PAIRS_PER_STEP // len(group))
    for start in range(0, len(group), rows):
        part = members[start : start + rows]
        near = _bits(part[:, None] ^ members[None, :]) <= distance
        first, second = np.nonzero(near)
        later = second > first + start
        if later.any():
            yield np.stack(
                (group[first[later] + start], group[second[later]]), 1
            )


def _bits(values: np.ndarray) -> np.ndarray:
    """The number of bits that are set; NumPy 1.26 has no bitwise_count."""
    if hasattr(np, 'bitwise_count'):
        return np.bitwise_count(values)
    counts = np.unpackbits(values[..., None].view(np.uint8), axis=-1)
    return counts.sum(-1, dtype=np.uint8)


def find_duplicates(
    hashes: Sequence['int | None'], distance: int = DEFAULT_DISTANCE
) -> dict[int, int]:
    """Find the images that are near duplicates of an earlier image.

    An image is kept unless an earlier image that is kept is near it.

    Args:
        hashes: The hash of each image; None for one without a hash, which is
            kept.
        distance: The largest number of bits in which near duplicates differ.

    Returns:
        For each duplicate the earlier image: indices in ``hashes``.
    """
    first: dict[int, int] = {}
    duplicates: dict[int, int] = {}
    for index, value in enumerate(hashes):
        if value is not None and first.setdefault(value, index) != index:
            duplicates[index] = first[value]
    unique = list(first.values())
    if distance and len(unique) > 1:
        near: dict[int, set[int]] = {}
        for pairs in near_pairs(list(first), distance):
            for earlier, later in pairs.tolist():
                near.setdefault(later, set()).add(earlier)
        for later in sorted(near):
            kept = [
                i for i in sorted(near[later]) if unique[i] not in duplicates
            ]
            if kept:
                duplicates[unique[later]] = unique[kept[0]]
    # a copy of a dropped image is a duplicate of the image that is kept
    return {
        index: duplicates.get(earlier, earlier)
        for index, earlier in sorted(duplicates.items())
    }
