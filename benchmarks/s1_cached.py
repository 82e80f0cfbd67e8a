# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""A step of stage 1 from a feature cache; the peer encodes the images."""

import functools
from collections.abc import Iterator

import training


def measure(repeats: int) -> Iterator[dict]:
    """Return the rows: features in fp32, and in fp16 with a wider guard."""
    row = functools.partial(
        training.row, stage='stage1', goal=1.9, repeats=repeats
    )
    yield row('s1-cached', side='cached')
    yield row('s1-cached fp16', side='cached fp16', tolerance=1e-3)
    yield row('s1-cached compiled', side='cached compiled')
