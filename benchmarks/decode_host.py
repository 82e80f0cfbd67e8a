# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Decoding with an LLM so small that the time is the overhead of Python.

LLaMA with 32 layers of width 64, a prompt of 100 embeddings, 60 tokens: the
cost without the arithmetic, as on a GPU that waits for kernel launches. Also
with a compiled forward pass, whose compilation is reported but not counted.
"""

from collections.abc import Iterator

from generation import Row, compare

TOKENS = 60
GOALS = dict(transformers=3, official=None, live=6)


def measure(repeats: int, size: str = 'host') -> Iterator[dict]:
    """The rows."""
    settings = dict(rows=1, prompt=100, tokens=TOKENS)
    for side in ('ours', 'compiled'):
        for peer, goal in GOALS.items():
            name = 'decode-host' + (' compiled' if side == 'compiled' else '')
            yield compare(
                Row(
                    f'{name} against {peer}',
                    'decode',
                    size,
                    settings,
                    'ms/token',
                    TOKENS,
                    peer,
                    goal,
                    side,
                    rate=False,
                ),
                repeats,
            )
