# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Captions of 64 images, 16 at a time, of lengths that differ.

The lengths are forced, lognormal with a sigma of 0.45. A peer's batch goes on
until its longest caption ends; its rows are cut. The vision parts work on
both sides.
"""

from collections.abc import Iterator

from generation import Row, compare

IMAGES, SLOTS = 64, 16
REPEATS = 5


def measure(repeats: int) -> Iterator[dict]:
    """The rows."""
    for peer in ('transformers', 'official'):
        yield compare(
            Row(
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
