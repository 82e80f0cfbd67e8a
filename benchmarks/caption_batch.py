# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Captions of 64 images, 16 at a time, of lengths that differ.

The lengths are forced, lognormal with a sigma of 0.45. A peer's batch goes on
until its longest caption ends; its rows are cut. The vision parts work on
both sides; a second pair of rows has the LLM's share alone.
"""

from collections.abc import Iterator

from generation import Row, compare

IMAGES, SLOTS = 64, 16
REPEATS = 5


def measure(repeats: int) -> Iterator[dict]:
    """The rows."""
    for seen in (False, True):
        for peer, goal in dict(transformers=2, official=2).items():
            name = 'caption-batch' + (' LLM alone' if seen else '')
            yield compare(
                Row(
                    f'{name} against {peer}',
                    'caption',
                    'small',
                    dict(count=IMAGES, slots=SLOTS, seen=seen),
                    'captions/CPU-s',
                    IMAGES,
                    peer,
                    goal,
                ),
                min(repeats, REPEATS),
            )
