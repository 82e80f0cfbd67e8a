# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""A step of stage 2: 4 images, a prompt, and answers of 160 tokens."""

from collections.abc import Iterator

import training


def measure(repeats: int) -> Iterator[dict]:
    """Yield the rows."""
    yield training.row('s2-step', 'stage2', 1.3, repeats)
    yield training.row('s2-step cached', 'stage2', 1.45, repeats, 'cached')
    yield training.row(
        's2-step mmpretrain',
        'stage2',
        1.3,
        repeats,
        'ours-mmpretrain',
        'mmpretrain',
    )
