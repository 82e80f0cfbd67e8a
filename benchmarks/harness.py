# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Two sides of a benchmark as two processes that work in turns on one CPU.

A side is a script that calls :func:`worker`; the parent calls
:func:`compare`. On one CPU with one thread, in alternation, the other load of
a machine falls on both sides alike; CPU time leaves most of it out.

This module needs no torch, so that a peer's environment can import it.
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
    """Be one side: build, warm up, then work once per line of stdin.

    Args:
        build: Gives the work and the guard. The work does one repetition; it
            returns None, and its CPU time counts, or a figure of its own that
            counts instead (FLOPs, bytes). The guard is a dict of arrays,
            numbers, texts or lists of them which the other side must
            share.
        warm_ups: Repetitions before the first that counts.
    """
    cpu = os.environ.get(_CPU)
    if cpu and hasattr(os, 'sched_setaffinity'):
        os.sched_setaffinity(0, {int(cpu)})
    # stdout is the line to the parent: whatever a library prints goes aside
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
    """A worker process, seen from the parent."""

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
        if self.command[0] != sys.executable:  # an environment of its own
            environment.pop('PYTHONPATH', None)
        self.process = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def hear(self) -> str:
        """The next line of the worker."""
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(
                f'{" ".join(self.command)} ended with '
                f'{self.process.wait()}; see its message above.'
            )
        return line.strip()

    def repeat(self) -> float:
        """One repetition: its figure."""
        self.process.stdin.write('\n')
        self.process.stdin.flush()
        return json.loads(self.hear())

    def close(self) -> None:
        """Let it end."""
        self.process.stdin.close()
        self.process.wait()


def _can_pin() -> bool:
    return hasattr(os, 'sched_getaffinity')


def compare_guards(
    ours: Mapping[str, np.ndarray],
    peer: Mapping[str, np.ndarray],
    tolerance: float | Mapping[str, float] = 1e-5,
) -> tuple[bool, str]:
    """Whether both sides did the same work, and by how much they differ.

    Floating-point arrays may differ by ``tolerance`` times the norm of the
    peer's (a mapping gives one for each name, else it is 1e-5); all else must
    be equal. Nothing to compare is a failure.
    """
    if set(ours) != set(peer) or not ours:
        return False, f'ours gives {sorted(ours)}, the peer {sorted(peer)}'
    good, words = True, []
    for name in sorted(ours):
        a, b = ours[name], peer[name]
        if a.shape != b.shape:
            same, word = False, f'{a.shape} against {b.shape}'
        elif a.dtype.kind != 'f' and b.dtype.kind != 'f':
            same = bool(np.array_equal(a, b))
            word = 'equal' if same else 'differs'
        else:
            limit = (
                tolerance.get(name, 1e-5)
                if isinstance(tolerance, Mapping)
                else tolerance
            )
            a, b = a.astype(np.float64), b.astype(np.float64)
            error = np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-30)
            same = bool(error <= limit)  # False for nan
            word = f'{error:.1e} (<= {limit:g})'
        good &= same
        words.append(f'{name} {word}')
    return good, ', '.join(words)


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
    """Run two sides in alternation, and give the row of the table.

    Args:
        name: Name of the row.
        ours: Command of our worker.
        peer: Command of the peer's.
        unit: Unit of the figures.
        goal: By what factor ours has to be better, of the best repetitions.
        peer_name: Who the peer is; says 're-stated' where its operations are
            told in our words.
        per: Items (samples, images, tokens) of one repetition.
        rate: Whether the figures are items per second; else they are seconds
            (or what the work returns) times ``scale`` per item.
        scale: See ``rate``; 1000 gives milliseconds.
        at_most: What ours may be at most, in ``unit``.
        at_least: What ours has to be at least, in ``unit``.
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
                # one after the other, so that they build undisturbed
                assert sides[-1].hear() == 'ready'
            for _ in range(repeats):
                for side, figures in zip(sides, measured):
                    figures.append(side.repeat())
        finally:
            for side in sides:
                side.close()
        arrays = [dict(np.load(guard)) for guard in guards]
    guard_ok, guard_text = compare_guards(*arrays, tolerance)

    def shown(figure: float) -> float:
        return per / figure if rate else figure * scale / per

    best = [min(figures) for figures in measured]
    middle = [statistics.median(figures) for figures in measured]
    return row(
        name,
        shown(best[0]),
        unit,
        peer=shown(best[1]),
        ratio=best[1] / best[0] if best[0] else None,
        goal=goal,
        at_most=at_most,
        at_least=at_least,
        guard_ok=guard_ok,
        guard=guard_text,
        peer_name=peer_name,
        median=dict(
            ours=shown(middle[0]),
            peer=shown(middle[1]),
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
    """A row of the table; ``met`` says whether it holds all its goals.

    A speed whose guard failed meets nothing. ``more`` is kept beside.
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
    """The row of a benchmark that could not run, with the reason."""
    return row(name, None, unit, guard='not run', skipped=reason, **goals)


def side(script: str | Path, *arguments: str | Path) -> list[str]:
    """The command of a worker of ours: a script of this folder."""
    return [sys.executable, str(HERE / script), *map(str, arguments)]
