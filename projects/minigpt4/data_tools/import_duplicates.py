# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Near duplicates among the images that are imported: which are kept."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from ..images.read import read_image
from ..utils.sample_errors import SampleError
from .image_facts import perceptual_hash, require_imagehash
from .near_duplicates import near_pairs

DEFAULT_DISTANCE = 4
_THREADS = 4


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
    require_imagehash()

    def hash_one(source: 'str | bytes') -> 'int | SampleError':
        try:
            return perceptual_hash(read_image(source))
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
        For each duplicate the earlier image that is kept: indices in
        ``hashes``.
    """
    # near_pairs compares different hashes
    first: dict[int, int] = {}
    copies = {}
    for index, value in enumerate(hashes):
        if value is not None and first.setdefault(value, index) != index:
            copies[index] = first[value]
    images = list(first.values())
    duplicates: dict[int, int] = {}
    pairs = near_pairs(list(first), distance) if distance else []
    for earlier, later in sorted(pairs, key=lambda pair: pair[::-1]):
        if images[earlier] not in duplicates:
            duplicates.setdefault(images[later], images[earlier])
    for index, earlier in copies.items():
        duplicates[index] = duplicates.get(earlier, earlier)
    return dict(sorted(duplicates.items()))
