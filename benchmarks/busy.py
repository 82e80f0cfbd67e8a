# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""A training step of the nano model on a machine that does other work.

Two threads train next to 2 and 4 processes that only compute. Each of the
threads and processes is entitled to an equal share of the cores, so a step
should take as many times longer as its share is smaller. The figure is the
time of a step divided by the quiet time of the same side and by that factor:
1 is fair. The peer is OpenMP without our setting (projects/minigpt4_cli/
openmp.py), whose idle threads spin.

The goal needs a machine without other work. Elsewhere the ratio to the peer is
what counts: both sides work in turns.

    python benchmarks/busy.py
"""

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, MutableMapping

import harness

from minigpt4_cli.openmp import limit_spinning

THREADS = 2
BATCH = 32
COMPETITORS = (2, 4)
SETTINGS = ('GOMP_SPINCOUNT', 'OMP_WAIT_POLICY')


def trainer():
    """A step of stage 1 of the nano model, of random images."""
    import mini_prop
    import torch
    from mmengine.config import Config
    from mmengine.optim import OptimWrapper

    import minigpt4  # noqa: F401  registers the models
    from minigpt4.registry import MODELS

    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    config = harness.HERE.parent / 'configs/minigpt4/stage1_nano.py'
    model = MODELS.build(Config.fromfile(config).model)
    images = torch.randint(0, 256, (BATCH, 3, 64, 64)).byte()
    samples = mini_prop.samples(
        [''] * BATCH, mini_prop.captions(BATCH), images
    )
    collate = model.collator(training=True)
    trained = [p for p in model.parameters() if p.requires_grad]
    wrapper = OptimWrapper(torch.optim.AdamW(trained, 1e-4))

    def step() -> float:
        return float(model.train_step(collate(samples), wrapper)['loss'])

    return step


def work() -> None:
    """Do one step for each line of stdin, and print its seconds."""
    answers = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)
    step = trainer()
    print(json.dumps([step() for _ in range(3)]), file=answers, flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        step()
        print(time.perf_counter() - start, file=answers, flush=True)


class Worker:
    """A process that trains."""

    def __init__(self, environment: MutableMapping[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, 'work'],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.losses = json.loads(self.process.stdout.readline())

    def step(self) -> float:
        """Seconds of a step."""
        self.process.stdin.write('\n')
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def close(self) -> None:
        """End the process."""
        self.process.stdin.close()
        self.process.wait()


def fair_factor(competitors: int) -> float:
    """How much longer a step takes with a fair share of the cores."""
    cores = len(os.sched_getaffinity(0))
    quiet = min(THREADS, cores)
    share = min(quiet, cores * THREADS / (THREADS + competitors))
    return quiet / share


def measure(repeats: int) -> Iterator[dict]:
    """Yield the rows."""
    peer = {**os.environ, 'OMP_NUM_THREADS': str(THREADS)}
    for name in SETTINGS:
        peer.pop(name, None)
    ours = dict(peer)
    limit_spinning(ours)
    workers = [Worker(ours), Worker(peer)]
    competitors = [
        subprocess.Popen([sys.executable, '-c', 'while True: pass'])
        for _ in range(max(COMPETITORS))
    ]
    seconds: dict[tuple[int, int], list[float]] = {}
    try:
        for process in competitors:
            process.send_signal(signal.SIGSTOP)
        for _ in range(repeats):
            for number in (0, *COMPETITORS):
                for process in competitors[:number]:
                    process.send_signal(signal.SIGCONT)
                for side, worker in enumerate(workers):
                    figures = seconds.setdefault((number, side), [])
                    figures.append(worker.step())
                for process in competitors:
                    process.send_signal(signal.SIGSTOP)
    finally:
        for process in competitors:
            process.kill()
            process.wait()
        for worker in workers:
            worker.close()
    same = workers[0].losses == workers[1].losses
    # medians: what the competitors leave differs from step to step
    middle = {key: statistics.median(value) for key, value in seconds.items()}
    yield harness.row(
        'busy quiet',
        middle[0, 0],
        's/step',
        peer=middle[0, 1],
        ratio=middle[0, 1] / middle[0, 0],
        goal=0.95,
        guard_ok=same,
        guard='losses ' + ('equal' if same else 'differ'),
        peer_name="OpenMP's default",
        repeats=repeats,
    )
    for number in COMPETITORS:
        fair = fair_factor(number)
        shares = [
            middle[number, side] / middle[0, side] / fair for side in (0, 1)
        ]
        yield harness.row(
            f'busy {number}',
            shares[0],
            'x the time of a fair share',
            peer=shares[1],
            ratio=middle[number, 1] / middle[number, 0],
            at_most=1.5,
            guard_ok=same,
            guard='losses ' + ('equal' if same else 'differ'),
            peer_name="OpenMP's default",
            seconds=[middle[number, 0], middle[number, 1]],
            repeats=repeats,
        )


if __name__ == '__main__':
    work() if sys.argv[1:] == ['work'] else print(*measure(3), sep='\n')
