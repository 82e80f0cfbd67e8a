# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""One token of several requests: a mask, or the own positions of each.

Both ways run in turn on one thread with random weights, and CPU time counts:

    python benchmarks/own_positions.py
"""

import random
import time

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from minigpt4.generation.fast_decoder import FastDecoder
from minigpt4.generation.kv_cache import KVCache

REPEATS = 12
PROMPT = 60  # tokens
# requests and the median length of their complete answers
CASES = ((16, 60), (16, 200), (4, 60), (2, 60))


@torch.inference_mode()
def measure(decoder: FastDecoder, requests: int, median: int) -> str:
    """Return the row of one case.

    Answers have a lognormal length with a sigma of 0.45, and are at a random
    position of it.
    """
    rng = random.Random(1)
    lengths = [
        PROMPT + int(median * rng.lognormvariate(0, 0.45) * rng.random())
        for _ in range(requests)
    ]
    cache = KVCache()
    cache.allocate(requests, max(lengths) + 40)
    positions = torch.tensor(lengths)[:, None]
    visible = min(-(-(max(lengths) + 1) // 16) * 16, cache.capacity)
    is_visible = torch.arange(visible) <= positions[:, None, :, None]
    ways = dict(
        mask=torch.where(is_visible, 0.0, float('-inf')),
        own=[length + 1 for length in lengths],
    )
    embeddings = torch.randn(requests, 1, 1024)
    times: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(REPEATS):
        for way, value in ways.items():
            start = time.process_time()
            decoder(embeddings, positions, value, positions, 0, cache)
            times[way].append((time.process_time() - start) * 1e3)
    mask, own = min(times['mask']), min(times['own'])
    return (
        f'{requests:8} {sum(lengths) / requests:6.1f} {max(lengths):4} '
        f'{mask:8.1f} {own:8.1f} {own / mask:6.2f}'
    )


def main() -> None:
    """Print the rows of all cases."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=1024,
        num_hidden_layers=16,
        num_attention_heads=8,
        num_key_value_heads=8,
        intermediate_size=2752,
        vocab_size=1000,
    )
    decoder = FastDecoder(LlamaForCausalLM(config).eval())
    print('requests   mean  max  mask ms   own ms  ratio')
    for requests, median in CASES:
        print(measure(decoder, requests, median), flush=True)


if __name__ == '__main__':
    main()
