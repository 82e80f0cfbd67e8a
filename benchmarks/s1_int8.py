# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""A step of stage 1 in int8 products, against our own step in fp32."""

from collections.abc import Iterator

import training

GOAL = 1.5


def measure(repeats: int) -> Iterator[dict]:
    """Yield the rows: with the vision parts, and from a feature cache."""
    for name, side, peer in (
        ('s1-int8', 'int8', 'ours'),
        ('s1-int8 cached', 'cached int8', 'cached'),
    ):
        yield training.row(
            name,
            'stage1',
            GOAL,
            repeats,
            side,
            peer,
            training.INT8_TOLERANCE,
        )
