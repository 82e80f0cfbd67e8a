# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Duplicates within the data, and what train and test data have in common."""

from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from .near_duplicates import group_pairs, near_pairs
from .scan import HELD_OUT, TRAIN, KnownText, Problem, Scan

_BOTH = TRAIN | HELD_OUT
_NAMES = 4  # of a group, in a reason


class ImageGroup(NamedTuple):
    """Images that are equal or similar.

    Attributes:
        keys: Their keys.
        exact: Whether their files are equal.
        splits: Bits of the splits that have one.
    """

    keys: list[str]
    exact: bool
    splits: int


def image_groups(
    scan: Scan, other: Scan | None, distance: int
) -> list[ImageGroup]:
    """Return the groups of equal and of similar images.

    Args:
        scan: The data.
        other: Data to compare with; its images have the split ``HELD_OUT``.
        distance: Bits in which perceptual hashes may differ; 0 compares
            only the files.
    """
    images = dict(scan.images)
    splits = dict(scan.splits)
    for key, facts in (other.images if other else {}).items():
        images.setdefault(key, facts)
        splits[key] = splits.get(key, 0) | HELD_OUT
    by_digest: dict[bytes, list[str]] = defaultdict(list)
    for key, facts in images.items():
        if facts.digest:
            by_digest[facts.digest].append(key)

    def bits(keys: list[str]) -> int:
        found = 0
        for key in keys:
            found |= splits[key]
        return found

    groups = [
        ImageGroup(keys, True, bits(keys))
        for keys in by_digest.values()
        if len(keys) > 1 or splits[keys[0]] == _BOTH
    ]
    if distance:
        hashed = [
            (keys[0], images[keys[0]].hash)
            for keys in by_digest.values()
            if images[keys[0]].hash is not None
        ]
        pairs = near_pairs([h for _, h in hashed if h is not None], distance)
        for indices in group_pairs(pairs):
            keys = [hashed[i][0] for i in indices]
            equal = [k for key in keys for k in by_digest[images[key].digest]]
            groups.append(ImageGroup(keys, False, bits(equal)))
    return groups


def image_problems(
    groups: list[ImageGroup], scan: Scan, other: Scan | None
) -> Iterator[Problem]:
    """Yield a problem for each group of images."""
    facts = {**(other.images if other else {}), **scan.images}
    for group in groups:
        names = [facts[key].name for key in group.keys]
        own = [key for key in group.keys if key in scan.images]
        listed = ', '.join(names[1 : _NAMES + 1])
        if len(names) > _NAMES + 1:
            listed += f' and {len(names) - _NAMES - 1} more'
        same = 'the same file' if group.exact else 'a similar image'
        if group.splits == _BOTH:
            yield Problem(
                'overlap',
                names[0],
                f'{same} is in the training and in the held-out data'
                + (f': {listed}' if listed else ''),
                max(len(own), 1),
            )
        if len(own) > 1:
            kind = 'duplicate-images' if group.exact else 'near-duplicates'
            yield Problem(kind, names[0], f'{same}: {listed}', len(own) - 1)


def text_problems(scan: Scan, other: Scan | None) -> Iterator[Problem]:
    """Yield a problem for each text that several records have."""
    for digest, text in scan.texts.items():
        if text.records > 1:
            yield Problem(
                'duplicate-texts',
                text.name,
                f'{text.records} records have the text {text.start!r}',
                text.records - 1,
            )
        found: KnownText | None = other.texts.get(digest) if other else None
        if found is not None or text.splits == _BOTH:
            yield Problem(
                'overlap-texts',
                text.name,
                'the training and the held-out data have the text '
                f'{text.start!r}',
                text.records,
            )
