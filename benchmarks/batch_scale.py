# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Tokens per second of 1 to 32 concurrent requests, against transformers.

Each batch size has three rows: decoding (without prefill and first tokens),
captioning (twice as many images as slots, fixed lengths, with the vision
encoder on both sides), and the matrix products of the LLM alone, in a batch
against one by one, which limit the gain of a batch on this machine. Decoding
has to be no slower than the smaller batch, and to reach 0.8 of the gain of the
products; captioning has to be no slower than the smaller batch.

    python benchmarks/batch_scale.py SIDE BATCH FOLDER
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import harness
import mini_prop
import torch
from generation import Comparison, compare, forced_lengths

BATCHES = (1, 2, 4, 8, 16, 32)
PROMPT, TOKENS = 32, 34  # the first two tokens are not timed
MEDIAN = 32  # tokens of a caption
SHARE = 0.8
REPEATS = 5


def build(side: str, batch: int, folder: Path) -> tuple[Callable, dict]:
    """All matrices of an LLM times a batch, or times each of its vectors."""
    from safetensors.torch import load_file

    torch.set_num_threads(1)
    matrices = [
        weight.t()
        for name, weight in load_file(
            folder / 'llm' / 'model.safetensors'
        ).items()
        if weight.ndim == 2 and 'embed' not in name
    ]
    generator = torch.Generator().manual_seed(0)
    inputs = {
        width: torch.randn(batch, width, generator=generator)
        for width in sorted({len(matrix) for matrix in matrices})
    }
    chunks = 1 if side == 'ours' else batch

    def work() -> None:
        for matrix in matrices:
            for row in inputs[len(matrix)].chunk(chunks):
                torch.mm(row, matrix)

    rows = inputs[len(matrices[0])].chunk(chunks)
    product = torch.cat([torch.mm(row, matrices[0]) for row in rows])
    return work, dict(product=product.numpy())


def products(batch: int, folder: Path, repeats: int) -> dict:
    """The row of the matrix products."""
    return harness.compare(
        f'batch-scale products B={batch}',
        *(
            harness.side(__file__, side, str(batch), folder)
            for side in ('ours', 'peer')
        ),
        'tokens/CPU-s',
        None,
        peer_name='one by one',
        per=batch,
        repeats=repeats,
    )


def measure(
    repeats: int, size: str = 'small', batches: tuple = BATCHES
) -> Iterator[dict]:
    """The rows."""
    repeats = min(repeats, REPEATS)
    before: dict[str, float] = {}
    single = 0.0
    for batch in batches:
        limit = products(batch, mini_prop.weights(size), repeats)
        yield limit
        lengths = forced_lengths(2 * batch, MEDIAN)
        for work, settings, tokens in (
            (
                'decode',
                dict(
                    rows=batch,
                    prompt=PROMPT,
                    tokens=TOKENS,
                    with_prefill=False,
                ),
                batch * (TOKENS - 2),
            ),
            (
                'caption',
                dict(count=2 * batch, slots=batch, median=MEDIAN),
                sum(lengths),
            ),
        ):
            row = compare(
                Comparison(
                    f'batch-scale {work} B={batch}',
                    work,
                    size,
                    settings,
                    'tokens/CPU-s',
                    tokens,
                    'transformers',
                    1,
                ),
                repeats,
            )
            row['batch'], row['work'] = batch, work
            if work == 'decode':
                single = single or row['ours'] / batch
                gain = SHARE * single * limit['ratio']
                before[work] = max(before.get(work, 0), gain)
            if before.get(work):
                row['at_least'] = before[work]
                row['met'] &= row['ours'] >= row['at_least']
            before[work] = row['ours']
            yield row


if __name__ == '__main__':
    harness.worker(
        lambda: build(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
    )
