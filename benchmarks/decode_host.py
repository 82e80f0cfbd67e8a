# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Decoding with an LLM so small that Python takes most of the time.

LLaMA of 32 layers and a width of 64, a prompt of 100 embeddings, 60 tokens:
the cost in addition to arithmetic, as on a GPU that waits for kernel launches.
Also with a compiled pass; the time of compilation is reported separately.
"""

from collections.abc import Iterator

from generation import Comparison, compare

TOKENS = 60
GOALS = dict(transformers=3, official=None, live=6)


def measure(repeats: int, size: str = 'host') -> Iterator[dict]:
    """The rows."""
    settings = dict(rows=1, prompt=100, tokens=TOKENS)
    for side in ('ours', 'compiled'):
        for peer, goal in GOALS.items():
            name = 'decode-host' + (' compiled' if side == 'compiled' else '')
            yield compare(
                Comparison(
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
