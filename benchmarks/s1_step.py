# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""A step of stage 1: 8 images with captions of 6 to 14 words."""

from collections.abc import Iterator

import training


def measure(repeats: int) -> Iterator[dict]:
    """Yield the rows."""
    yield training.row('s1-step', 'stage1', 1.25, repeats)
    yield training.row('s1-step compiled', 'stage1', 1.25, repeats, 'compiled')
    yield training.row('s1-step blip2', 'stage1', 1.25, repeats, peer='blip2')
