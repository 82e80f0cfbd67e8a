# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""A step of stage 1 on two ranks against one, of the same global batch.

Ranks are processes of one thread, each on a CPU of its own, joined by gloo.
One figure is the time on the clock, for ranks wait for each other: on a
machine that has other work only the best repetitions say anything. The other
is the CPU time of the busier rank, which is what it would take alone.

    python benchmarks/rank_scale.py RANKS FOLDER [RANK MEETING_PLACE]
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import harness

STEPS = 3


def trainer(folder: Path, rank: int, ranks: int):
    """This rank's step: its share of the batch."""
    import mini_prop
    import numpy as np
    import torch
    import training
    from mmengine.optim import OptimWrapper

    torch.set_num_threads(1)
    count, template, length, _ = training.STAGES['stage1']
    model = mini_prop.build(
        folder, prompt_template=template, max_text_length=length
    )
    questions, answers = training.texts('stage1')
    pictures = torch.from_numpy(np.load(folder / training.PIXELS))[:count]
    samples = mini_prop.samples(questions, answers, pictures)[rank::ranks]
    collate = model.collator(training=True)
    trained = [p for p in model.parameters() if p.requires_grad]
    wrapper = OptimWrapper(torch.optim.AdamW(trained, training.LEARNING_RATE))

    def step() -> tuple[float, float]:
        start = time.process_time()
        loss = model.train_step(collate(samples), wrapper)['loss']
        busy = torch.tensor(time.process_time() - start)
        if ranks > 1:
            torch.distributed.all_reduce(busy, torch.distributed.ReduceOp.MAX)
        return float(loss), float(busy)

    return step


def join(rank: int, ranks: int, meeting: str) -> None:
    """Meet the other ranks."""
    import torch.distributed as dist

    dist.init_process_group(
        'gloo', init_method=f'file://{meeting}', rank=rank, world_size=ranks
    )


def follow(folder: Path, rank: int, ranks: int, meeting: str) -> None:
    """A rank that is not the first: step whenever that one does."""
    import torch
    import torch.distributed as dist

    os.sched_setaffinity(0, {rank % os.cpu_count()})
    join(rank, ranks, meeting)
    step = trainer(folder, rank, ranks)
    go = torch.ones(())
    while True:
        dist.broadcast(go, src=0)
        if not go:
            return
        step()


def build(ranks: int, folder: Path):
    """The first rank's work and guard."""
    import atexit

    import torch
    import torch.distributed as dist

    if ranks > 1:
        os.sched_setaffinity(0, {0})
        meeting = tempfile.mktemp(prefix='minigpt4-ranks-')
        others = [
            subprocess.Popen(
                [sys.executable, __file__, str(ranks), str(folder)]
                + [str(rank), meeting],
                stdin=subprocess.DEVNULL,
            )
            for rank in range(1, ranks)
        ]
        join(0, ranks, meeting)

        def leave() -> None:
            dist.broadcast(torch.zeros(()), src=0)
            for other in others:
                other.wait()

        atexit.register(leave)
    step = trainer(folder, 0, ranks)

    def both() -> tuple[float, float]:
        if ranks > 1:
            dist.broadcast(torch.ones(()), src=0)
        return step()

    losses = [both()[0] for _ in range(STEPS)]
    file = folder / f'{ranks}-ranks.json'
    file.write_text('[]')

    def work() -> float:
        start = time.perf_counter()
        busy = both()[1]
        end = time.perf_counter()
        file.write_text(json.dumps([*json.loads(file.read_text()), busy]))
        return end - start

    return work, dict(losses=losses)


def measure(repeats: int) -> list[dict]:
    """The rows."""
    import training

    folder = training.prepare()
    samples = training.STAGES['stage1'][0]
    row = harness.compare(
        'rank-scale',
        harness.side('rank_scale.py', 2, folder),
        harness.side('rank_scale.py', 1, folder),
        'samples/s',
        1.95,
        peer_name='itself on 1 rank',
        per=samples,
        repeats=repeats,
    )
    row['load_average'] = os.getloadavg()
    best = [
        min(json.loads((folder / f'{ranks}-ranks.json').read_text()))
        for ranks in (2, 1)
    ]
    busy = harness.row(
        'rank-scale cpu',
        samples / best[0],
        'samples/CPU-s of the busier rank',
        peer=samples / best[1],
        ratio=best[1] / best[0],
        goal=1.95,
        guard_ok=row['guard_ok'],
        guard=row['guard'],
        peer_name='itself on 1 rank',
    )
    return [row, busy]


if __name__ == '__main__':
    ranks, folder = int(sys.argv[1]), Path(sys.argv[2])
    if len(sys.argv) > 3:
        follow(folder, int(sys.argv[3]), ranks, sys.argv[4])
    else:
        harness.worker(lambda: build(ranks, folder), warm_ups=1)
