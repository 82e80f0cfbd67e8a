# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Captions of 64 images of different lengths, 16 at the same time.

The lengths are fixed, lognormal with a sigma of 0.45. A peer's batch continues
until its longest caption ends; the others are cut. Both sides run the vision
encoder.
"""

from collections.abc import Iterator

from generation import Comparison, compare

IMAGES, SLOTS = 64, 16
REPEATS = 5


def measure(repeats: int) -> Iterator[dict]:
    """The rows."""
    for peer in ('transformers', 'official'):
        yield compare(
            Comparison(
                f'caption-batch against {peer}',
                'caption',
                'small',
                dict(count=IMAGES, slots=SLOTS),
                'captions/CPU-s',
                IMAGES,
                peer,
                2,
            ),
            min(repeats, REPEATS),
        )
