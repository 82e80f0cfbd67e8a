# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Where the CPU time of the row ``caption-batch`` goes.

64 captions of different lengths, 16 at a time, on one thread with random
weights. The first run counts the steps and the CPU time of their parts, the
second one is recorded by torch's profiler:

    python benchmarks/caption_profile.py
"""

import time
from collections import Counter

import generation
import mini_prop
import torch
from torch.profiler import ProfilerActivity, profile

from minigpt4.generation.model_runner import ModelRunner

CAPTIONS, SLOTS, MEDIAN = 64, 16, 80
PARTS = ('encode_images', 'prefill', 'decode')
GROUPS = dict(
    matrix_products=('aten::mm', 'aten::addmm', 'aten::bmm'),
    attention=('attention',),
)


def count_parts(seconds: Counter, calls: Counter) -> None:
    """Let the engine count the calls and CPU seconds of its parts."""

    def counted(name: str):
        original = getattr(ModelRunner, name)

        def run(self, *args, **settings):
            calls[name] += 1
            start = time.process_time()
            try:
                return original(self, *args, **settings)
            finally:
                seconds[name] += time.process_time() - start

        return run

    for name in PARTS:
        setattr(ModelRunner, name, counted(name))


def main() -> None:
    """Print the shares of parts and of kinds of operations."""
    torch.set_num_threads(1)
    once, _ = generation.caption(
        'ours', mini_prop.weights('small'), CAPTIONS, SLOTS, MEDIAN
    )
    once()  # the first run checks the fast decoder
    seconds: Counter = Counter()
    calls: Counter = Counter()
    count_parts(seconds, calls)
    _, total = once()
    lengths = generation.forced_lengths(CAPTIONS, MEDIAN)
    batches = range(0, CAPTIONS, SLOTS)
    longest = sum(max(lengths[i : i + SLOTS]) for i in batches)
    print(
        f'{calls["decode"]} steps; in batches of {SLOTS}, of which each waits '
        f'for its longest caption, {longest}'
    )
    for name in PARTS:
        print(f'{name:16} {seconds[name] / total:5.0%} of the CPU time')
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        once()
    own = {e.key: e.self_cpu_time_total for e in recorded.key_averages()}
    for group, names in GROUPS.items():
        found = sum(
            t for key, t in own.items() if any(n in key for n in names)
        )
        print(f'{group:16} {found / sum(own.values()):5.0%} of all operations')


if __name__ == '__main__':
    main()
