# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""A step of stage 1 on two ranks and on one, with the same global batch.

A rank is a process with one thread on its own CPU; ranks communicate over
gloo. One figure is the wall time, because ranks wait for each other; on a
machine with other load only the best repetitions are meaningful. The other is
the CPU time of the busier rank, i.e. its time on a quiet machine.

    python benchmarks/rank_scale.py RANKS FOLDER [RANK INIT_FILE]
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
    """Build the step of this rank, with its part of the batch."""
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
    images = torch.from_numpy(np.load(folder / training.PIXELS))[:count]
    samples = mini_prop.samples(questions, answers, images)[rank::ranks]
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


def join(rank: int, ranks: int, init_file: str) -> None:
    """Join the process group."""
    import torch.distributed as dist

    dist.init_process_group(
        'gloo', init_method=f'file://{init_file}', rank=rank, world_size=ranks
    )


def follow(folder: Path, rank: int, ranks: int, init_file: str) -> None:
    """Run a rank other than the first: step whenever the first does."""
    import torch
    import torch.distributed as dist

    os.sched_setaffinity(0, {rank % os.cpu_count()})
    join(rank, ranks, init_file)
    step = trainer(folder, rank, ranks)
    go = torch.ones(())
    while True:
        dist.broadcast(go, src=0)
        if not go:
            return
        step()


def build(ranks: int, folder: Path):
    """Build the work and the guard of the first rank."""
    import atexit

    import torch
    import torch.distributed as dist

    if ranks > 1:
        os.sched_setaffinity(0, {0})
        init_file = tempfile.mktemp(prefix='minigpt4-ranks-')
        others = [
            subprocess.Popen(
                [sys.executable, __file__, str(ranks), str(folder)]
                + [str(rank), init_file],
                stdin=subprocess.DEVNULL,
            )
            for rank in range(1, ranks)
        ]
        join(0, ranks, init_file)

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
    """Return the rows."""
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
