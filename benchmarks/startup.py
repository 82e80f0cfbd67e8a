# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Seconds of ``import minigpt4``, and of ``minigpt4 chat`` to its answer.

Each repetition is a fresh process; files are in the system's cache after the
first. The figures are CPU seconds of the process, one thread, which other work
on the machine changes little; the wall time is kept with the row.
"""

import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

import harness

# libraries that an import must not load
UNUSED = ('bitsandbytes', 'peft', 'torch._inductor')
IMPORT = (
    'import minigpt4, sys\n'
    f'sys.exit(any(name in sys.modules for name in {UNUSED}))'
)
IMAGE = harness.HERE.parent / 'demo' / 'scene.png'


def run(command: list[str], question: str = '') -> tuple[float, float, str]:
    """Run a command; CPU seconds, wall seconds and its output."""
    environment = {
        **os.environ,
        'OMP_NUM_THREADS': '1',
        'HF_HUB_OFFLINE': '1',
    }
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    done = subprocess.run(
        command,
        input=question,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        check=True,
    )
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return cpu, wall, done.stdout


def measure(repeats: int) -> Iterator[dict]:
    """Yield the rows."""
    for name, command, question, limit in (
        ('import', [sys.executable, '-c', IMPORT], '', 4.0),
        (
            'chat',
            [sys.executable, '-m', 'minigpt4_cli.main', 'chat']
            + ['--image', str(IMAGE)],
            'How many shapes are there?\n',
            8.0,
        ),
    ):
        runs = [run(command, question) for _ in range(repeats)]
        answered = not question or all('shape' in out for *_, out in runs)
        cpu, wall, _ = zip(*runs)
        yield harness.row(
            f'startup {name}',
            min(cpu),
            'CPU-s',
            at_most=limit,
            guard_ok=answered,
            guard='answered' if question else 'no unused library',
            median=dict(ours=statistics.median(cpu)),
            wall=min(wall),
            repeats=repeats,
        )
