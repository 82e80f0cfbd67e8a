# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Compare two sides of a benchmark, two processes that alternate on one CPU.

A side is a script that calls :func:`worker`; the parent process calls
:func:`compare`. On one CPU, with one thread and in alternation, other load of
the machine affects both sides alike; CPU time excludes most of it.

This module does not import torch, so that a peer's environment can import it.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
REPEATS = 7
WARM_UPS = 2
_CPU = 'MINIGPT4_BENCH_CPU'
_GUARD = 'MINIGPT4_BENCH_GUARD'
KEYS = (
    'name',
    'ours',
    'peer',
    'unit',
    'ratio',
    'goal',
    'guard_ok',
    'guard',
    'command',
)


def worker(
    build: Callable[[], tuple[Callable[[], float | None], Mapping]],
    warm_ups: int = WARM_UPS,
) -> None:
    """Run one side: build, warm up, then work once per line of stdin.

    Args:
        build: Returns the work and the guard. The work runs one repetition
            and returns None, where its CPU time is measured, or a figure that
            is used instead (FLOPs, bytes). The guard is a dict of arrays,
            numbers, texts or lists of these that has to be the same on both
            sides.
        warm_ups: Repetitions before the first measured one.
    """
    cpu = os.environ.get(_CPU)
    if cpu and hasattr(os, 'sched_setaffinity'):
        os.sched_setaffinity(0, {int(cpu)})
    # stdout belongs to the parent: output of libraries goes to stderr
    answers = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)
    work, guard = build()
    arrays = {name: np.asarray(value) for name, value in guard.items()}
    np.savez(os.environ[_GUARD], **arrays)
    for _ in range(warm_ups):
        work()
    print('ready', file=answers, flush=True)
    for _ in sys.stdin:
        start = time.process_time()
        figure = work()
        if figure is None:
            figure = time.process_time() - start
        print(json.dumps(figure), file=answers, flush=True)


class _Side:
    """A worker process."""

    def __init__(self, command: Sequence[str | Path], guard: Path) -> None:
        self.command = [str(part) for part in command]
        cpu = str(min(os.sched_getaffinity(0))) if _can_pin() else ''
        environment = {
            **os.environ,
            'OMP_NUM_THREADS': '1',
            'OMP_WAIT_POLICY': 'PASSIVE',
            'HF_HUB_OFFLINE': '1',
            _CPU: os.environ.get(_CPU, cpu),
            _GUARD: str(guard),
        }
        if self.command[0] != sys.executable:  # another environment
            environment.pop('PYTHONPATH', None)
        self.process = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def read_line(self) -> str:
        """Read the next line of the worker."""
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(
                f'{" ".join(self.command)} ended with '
                f'{self.process.wait()}; see its message above.'
            )
        return line.strip()

    def repeat(self) -> float:
        """Run one repetition; returns its figure."""
        self.process.stdin.write('\n')
        self.process.stdin.flush()
        return json.loads(self.read_line())

    def close(self) -> None:
        """End the process."""
        self.process.stdin.close()
        self.process.wait()


def _can_pin() -> bool:
    return hasattr(os, 'sched_getaffinity')


def compare_guards(
    ours: Mapping[str, np.ndarray],
    peer: Mapping[str, np.ndarray],
    tolerance: float | Mapping[str, float] = 1e-5,
) -> tuple[bool, str]:
    """Check that both sides did the same work; returns also the differences.

    Floating-point arrays may differ by ``tolerance`` times the norm of the
    peer's (a mapping has one for each name, else it is 1e-5); other values
    must be equal. Empty guards are a failure.
    """
    if set(ours) != set(peer) or not ours:
        return False, f'ours has {sorted(ours)}, the peer {sorted(peer)}'
    all_same, texts = True, []
    for name in sorted(ours):
        a, b = ours[name], peer[name]
        if a.shape != b.shape:
            same, text = False, f'{a.shape} against {b.shape}'
        elif a.dtype.kind != 'f' and b.dtype.kind != 'f':
            same = bool(np.array_equal(a, b))
            text = 'equal' if same else 'differs'
        else:
            limit = (
                tolerance.get(name, 1e-5)
                if isinstance(tolerance, Mapping)
                else tolerance
            )
            a, b = a.astype(np.float64), b.astype(np.float64)
            error = np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-30)
            same = bool(error <= limit)  # False for nan
            text = f'{error:.1e} (<= {limit:g})'
        all_same &= same
        texts.append(f'{name} {text}')
    return all_same, ', '.join(texts)


def compare(
    name: str,
    ours: Sequence[str | Path],
    peer: Sequence[str | Path],
    unit: str,
    goal: float | None,
    *,
    peer_name: str,
    per: float = 1,
    rate: bool = True,
    scale: float = 1,
    at_most: float | None = None,
    at_least: float | None = None,
    tolerance: float | Mapping[str, float] = 1e-5,
    repeats: int = REPEATS,
) -> dict:
    """Run two sides in alternation; returns a row of the results.

    Args:
        name: Name of the row.
        ours: Command of our worker.
        peer: Command of the peer's.
        unit: Unit of the figures.
        goal: Factor by which the best repetition of ours has to be better.
        peer_name: Name of the peer, with 'reimplemented' where its operations
            were written again by us.
        per: Items (samples, images, tokens) of one repetition.
        rate: Whether the figures are items per second; else they are seconds
            (or what the work returns) times ``scale`` per item.
        scale: See ``rate``; 1000 gives milliseconds.
        at_most: Upper limit of ours, in ``unit``.
        at_least: Lower limit of ours, in ``unit``.
        tolerance: See :func:`compare_guards`.
        repeats: Repetitions of each side, after the warm-up.

    Returns:
        The row: ``KEYS`` and more. ``ours`` and ``peer`` are the best
        repetitions, ``ratio`` is above 1 where ours is better.
    """
    measured: list[list[float]] = [[], []]
    with tempfile.TemporaryDirectory() as temporary:
        guards = [Path(temporary) / f'{side}.npz' for side in ('ours', 'peer')]
        sides: list[_Side] = []
        try:
            for command, guard in zip((ours, peer), guards):
                sides.append(_Side(command, guard))
                # one after the other, so that they do not slow each other
                assert sides[-1].read_line() == 'ready'
            for _ in range(repeats):
                for side, figures in zip(sides, measured):
                    figures.append(side.repeat())
        finally:
            for side in sides:
                side.close()
        arrays = [dict(np.load(guard)) for guard in guards]
    guard_ok, guard_text = compare_guards(*arrays, tolerance)

    def in_unit(figure: float) -> float:
        return per / figure if rate else figure * scale / per

    best = [min(figures) for figures in measured]
    middle = [statistics.median(figures) for figures in measured]
    return row(
        name,
        in_unit(best[0]),
        unit,
        peer=in_unit(best[1]),
        ratio=best[1] / best[0] if best[0] else None,
        goal=goal,
        at_most=at_most,
        at_least=at_least,
        guard_ok=guard_ok,
        guard=guard_text,
        peer_name=peer_name,
        median=dict(
            ours=in_unit(middle[0]),
            peer=in_unit(middle[1]),
            ratio=middle[1] / middle[0] if middle[0] else None,
        ),
        repeats=repeats,
    )


def row(
    name: str,
    ours: float | None,
    unit: str,
    *,
    goal: float | None = None,
    peer: float | None = None,
    ratio: float | None = None,
    at_most: float | None = None,
    at_least: float | None = None,
    guard_ok: bool = False,
    guard: str = '',
    **more,
) -> dict:
    """Make a row of the results; ``met`` is whether it meets all its goals.

    With a failed guard it meets none. ``more`` has further entries of the row.
    """
    met = (
        ours is not None
        and guard_ok
        and (goal is None or (ratio is not None and ratio >= goal))
        and (at_most is None or ours <= at_most)
        and (at_least is None or ours >= at_least)
    )
    return dict(
        name=name,
        ours=ours,
        peer=peer,
        unit=unit,
        ratio=ratio,
        goal=goal,
        at_most=at_most,
        at_least=at_least,
        met=met,
        guard_ok=guard_ok,
        guard=guard,
        command=f'python benchmarks/run.py {name.split()[0]}',
        **more,
    )


def skipped(name: str, unit: str, reason: str, **goals) -> dict:
    """Make the row of a benchmark that could not run, with the reason."""
    return row(name, None, unit, guard='not run', skipped=reason, **goals)


def side(script: str | Path, *arguments: str | Path) -> list[str]:
    """The command of a worker script of this folder."""
    return [sys.executable, str(HERE / script), *map(str, arguments)]
