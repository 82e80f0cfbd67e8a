# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Divide records into splits by their images."""

import random
from collections.abc import Iterable, Sequence

NAMES = {1: ('train',), 2: ('train', 'test'), 3: ('train', 'val', 'test')}


def parse_shares(text: str) -> tuple[float, ...]:
    """Parse shares such as ``0.9,0.05,0.05``.

    Raises:
        ValueError: They are not two or three numbers above 0 whose sum is 1.
    """
    try:
        shares = tuple(float(part) for part in text.split(','))
    except ValueError:
        shares = ()
    valid = all(0 < share < 1 for share in shares)
    if len(shares) not in (2, 3) or not valid or abs(sum(shares) - 1) > 1e-6:
        raise ValueError(
            f'the shares {text!r} are not two or three numbers above 0 with '
            'the sum 1; expected train,test or train,val,test, such as '
            '0.9,0.05,0.05.'
        )
    return shares


def split_images(
    groups: Sequence[int], shares: Sequence[float], seed: int
) -> list[int]:
    """Draw a split for each image.

    Args:
        groups: The group of each image; images of a group get the same
            split.
        shares: The share of each split.
        seed: Seed of the draw.

    Returns:
        The split of each image. Every split has a group if there are as many
        groups as splits.
    """
    names = sorted(set(groups))
    random.Random(f'split {seed}').shuffle(names)
    sizes = _sizes(len(names), shares)
    split_of: dict[int, int] = {}
    start = 0
    for split, size in enumerate(sizes):
        for name in names[start : start + size]:
            split_of[name] = split
        start += size
    return [split_of[group] for group in groups]


def _sizes(number: int, shares: Sequence[float]) -> list[int]:
    """Whole numbers with the sum ``number``, each at least 1 if possible."""
    sizes = [int(number * share) for share in shares]
    order = sorted(
        range(len(shares)), key=lambda i: sizes[i] - number * shares[i]
    )
    for i in order[: number - sum(sizes)]:
        sizes[i] += 1
    for i, size in enumerate(sizes):
        if not size and max(sizes) > 1:
            sizes[sizes.index(max(sizes))] -= 1
            sizes[i] = 1
    return sizes


def join_groups(number: int, links: Iterable[Sequence[int]]) -> list[int]:
    """Join images that are in the same record.

    Args:
        number: Number of images.
        links: The images of each record that has several.

    Returns:
        The group of each image.
    """
    parents = list(range(number))

    def root(image: int) -> int:
        while parents[image] != image:
            parents[image] = parents[parents[image]]
            image = parents[image]
        return image

    for first, *others in links:
        for other in others:
            a, b = root(first), root(other)
            parents[max(a, b)] = min(a, b)
    return [root(image) for image in range(number)]
