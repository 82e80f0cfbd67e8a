# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""A step of stage 1 from a feature cache; the peer has none and encodes."""

import training


def measure(repeats: int) -> list[dict]:
    """The rows."""
    return [training.row('s1-cached', 'stage1', 1.9, repeats, 'cached')]
