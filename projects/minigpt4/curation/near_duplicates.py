# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Find near duplicates of texts (MinHash) and of images (perceptual hash).

Both indexes return the nearest entry by its number, so that what they find
does not depend on the order in which they were filled.
"""

from collections.abc import Callable
from typing import Any

from ..evaluation.text_rules import words

_PERMUTATIONS = 128
_SHINGLE = 3  # words
HASH_BITS = 64


class TextIndex:
    """Texts by their sequences of three words.

    Args:
        min_similarity: Of near duplicates: the share of common sequences
            (Jaccard), above 0 up to 1.
    """

    def __init__(self, min_similarity: float) -> None:
        from datasketch import MinHashLSH

        self._min = min_similarity
        # candidates of a somewhat lower similarity; they are then compared
        self._lsh = MinHashLSH(
            threshold=max(0.1, min_similarity - 0.1), num_perm=_PERMUTATIONS
        )
        self._shingles: dict[int, frozenset[int]] = {}

    def add(self, number: int, text: str) -> None:
        """Add a text; one without words is never a duplicate."""
        shingles = _shingles(text)
        if shingles:
            self._shingles[number] = shingles
            self._lsh.insert(number, _signature(shingles))

    def find(
        self, text: str, accept: Callable[[int], bool]
    ) -> tuple[int, float] | None:
        """Find the near duplicate of the lowest number.

        Args:
            text: The text.
            accept: Whether an entry of a number counts.

        Returns:
            Its number and the similarity.
        """
        shingles = _shingles(text)
        if not shingles:
            return None
        for number in sorted(self._lsh.query(_signature(shingles))):
            if accept(number):
                other = self._shingles[number]
                similarity = len(shingles & other) / len(shingles | other)
                if similarity >= self._min:
                    return number, similarity
        return None


class ImageIndex:
    """Perceptual hashes of images.

    Args:
        max_distance: Of near duplicates: the most of 64 bits that differ.
    """

    def __init__(self, max_distance: int) -> None:
        self._max = max_distance
        # two hashes that differ in N bits agree in one of N + 1 pieces
        count = max_distance + 1
        edges = [HASH_BITS * i // count for i in range(count + 1)]
        self._pieces = [
            (start, (1 << (end - start)) - 1)
            for start, end in zip(edges, edges[1:], strict=False)
        ]
        self._numbers: dict[tuple[int, int], list[int]] = {}
        self._hashes: dict[int, int] = {}

    def add(self, number: int, value: int) -> None:
        """Add the hash of an image."""
        self._hashes[number] = value
        for key in self._keys(value):
            self._numbers.setdefault(key, []).append(number)

    def find(
        self, value: int, accept: Callable[[int], bool]
    ) -> tuple[int, int] | None:
        """Find the near duplicate of the lowest number.

        Returns:
            Its number and the bits that differ.
        """
        found = {
            n for k in self._keys(value) for n in self._numbers.get(k, ())
        }
        for number in sorted(found):
            distance = (self._hashes[number] ^ value).bit_count()
            if distance <= self._max and accept(number):
                return number, distance
        return None

    def _keys(self, value: int) -> list[tuple[int, int]]:
        return [(start, value >> start & mask) for start, mask in self._pieces]


def image_hash(image: Any) -> int:
    """Perceptual hash of a Pillow image: 64 bits.

    Returns:
        A number of 64 bits that changes little where the image does.
    """
    import imagehash

    return int(str(imagehash.phash(image)), 16)


def _shingles(text: str) -> frozenset[int]:
    from datasketch.hashfunc import sha1_hash64

    found = words(text)
    return frozenset(
        sha1_hash64(' '.join(found[i : i + _SHINGLE]).encode(errors='replace'))
        for i in range(max(1, len(found) - _SHINGLE + 1))
        if found
    )


def _signature(shingles: frozenset[int]) -> Any:
    from datasketch import MinHash

    signature = MinHash(num_perm=_PERMUTATIONS, hashfunc=_shorten)
    signature.update_batch(sorted(shingles))
    return signature


def _shorten(value: int) -> int:
    return value & 0xFFFFFFFF
