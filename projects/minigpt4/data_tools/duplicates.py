# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Duplicates within the data, and what train and test data have in common."""

from array import array
from collections.abc import Iterator
from itertools import groupby
from typing import NamedTuple

from .known_images import KnownData
from .near_duplicates import near_groups
from .problems import Problem
from .scan import HELD_OUT, TRAIN

_BOTH = TRAIN | HELD_OUT
_NAMES = 4  # of a group, in a reason


class ImageGroup(NamedTuple):
    """Images that are equal or similar.

    Attributes:
        images: Their numbers in :class:`~.known_images.KnownData`.
        exact: Whether their files are equal.
        splits: Bits of the splits that have one.
        own: How many are of the data that are checked.
    """

    images: list[int]
    exact: bool
    splits: int
    own: int


def image_groups(known: KnownData, distance: int) -> list[ImageGroup]:
    """Return the groups of equal and of similar images.

    Args:
        known: The images.
        distance: Bits in which perceptual hashes may differ; 0 compares
            only the files.
    """
    equal = []
    # of the first image of each file, for those with a perceptual hash
    hashed, hashes = array('Q'), array('Q')
    splits, own = bytearray(), bytearray()
    for _, rows in groupby(known.by_digest(), key=lambda row: row.digest):
        same = list(rows)
        bits = 0
        for row in same:
            bits |= row.splits
        if len(same) > 1 or bits == _BOTH:
            images = [row.id for row in same]
            count = sum(row.own for row in same)
            equal.append(ImageGroup(images, True, bits, count))
        if same[0].hash is not None:
            hashed.append(same[0].id)
            hashes.append(same[0].hash)
            splits.append(bits)
            own.append(same[0].own)
    equal.sort(key=lambda group: group.images[0])
    if not distance:
        return equal
    similar = []
    for indices in near_groups(hashes, distance):
        indices.sort(key=lambda i: hashed[i])
        bits = 0
        for i in indices:
            bits |= splits[i]
        images = [hashed[i] for i in indices]
        count = sum(own[i] for i in indices)
        similar.append(ImageGroup(images, False, bits, count))
    similar.sort(key=lambda group: group.images[0])
    return equal + similar


def image_problems(
    groups: list[ImageGroup], known: KnownData
) -> Iterator[Problem]:
    """Yield a problem for each group of images."""
    for group in groups:
        refs = known.refs(group.images[: _NAMES + 1])
        listed = ', '.join(ref.name for ref in refs[1:])
        if len(group.images) > len(refs):
            listed += f' and {len(group.images) - len(refs)} more'
        same = 'the same file' if group.exact else 'a similar image'
        if group.splits == _BOTH and group.own:
            yield Problem(
                'overlap',
                refs[0].name,
                f'{same} is in the training and in the held-out data'
                + (f': {listed}' if listed else ''),
                group.own,
            )
        if group.own > 1:
            kind = 'duplicate-images' if group.exact else 'near-duplicates'
            yield Problem(
                kind, refs[0].name, f'{same}: {listed}', group.own - 1
            )


def text_problems(known: KnownData) -> Iterator[Problem]:
    """Yield a problem for each text that several records have."""
    for text in known.repeated_texts(_BOTH):
        if text.records > 1:
            yield Problem(
                'duplicate-texts',
                text.name,
                f'{text.records} records have the text {text.start!r}',
                text.records - 1,
            )
        if text.is_compared or text.splits == _BOTH:
            yield Problem(
                'overlap-texts',
                text.name,
                'the training and the held-out data have the text '
                f'{text.start!r}',
                text.records,
            )
