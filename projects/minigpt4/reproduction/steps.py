# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Run the steps of a reproduction: commands, some after others.

A step that ends gets a file in the folder ``steps``, so the same call
continues a stopped one. The file has the sizes of what the step has made: if
something of that is missing or has become smaller, the step runs again. Steps
run at the same time if none needs the other.
"""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ..utils.atomic import make_folder, write_atomically
from ..utils.locks import lock_file
from ..utils.processes import end_with_parent
from ..utils.signals import StopRequest

_POLL_SECONDS = 0.2
_STOP_SECONDS = 60.0  # for a training to save its checkpoint


class Step(NamedTuple):
    """A command.

    Attributes:
        name: Its name, unique in a plan.
        command: Program and arguments.
        needs: Names of the steps that must have ended before.
        cost: About how long it takes, in any unit; for the estimate of the
            remaining time.
        outputs: Files and folders that it makes, relative to the working
            folder, without those that others may remove.
    """

    name: str
    command: tuple[str, ...]
    needs: tuple[str, ...] = ()
    cost: float = 1.0
    outputs: tuple[str, ...] = ()


class Outcome(NamedTuple):
    """How the steps ended.

    Attributes:
        done: Names of the steps that have ended.
        failed: The last lines of the log of each step that failed.
        skipped: Names of the steps that need one that failed.
    """

    done: set[str]
    failed: dict[str, str]
    skipped: set[str]


class _Running(NamedTuple):
    process: subprocess.Popen
    start: float


def run_steps(
    steps: Sequence[Step],
    folder: Path,
    jobs: int,
    environment: Mapping[str, str],
    say: Callable[[str], object] = print,
) -> Outcome:
    """Run all steps that have not ended.

    The output of a step is added to ``folder/logs/NAME.log``. A step that
    fails does not stop the others, except for those that need it.

    Args:
        steps: The steps, each after those that it needs.
        folder: The working folder of all commands.
        jobs: Number of steps at the same time.
        environment: Environment variables of the commands.
        say: Prints a line of progress.

    Returns:
        How the steps ended.

    Raises:
        StopSignal: A signal came; the running steps were stopped.
    """
    done = _ended_before(steps, folder, say)
    outcome = Outcome(done, {}, set())
    waiting = [step for step in steps if step.name not in done]
    if done:
        say(f'{len(done)} of {len(steps)} steps have ended before')
    running: dict[Step, _Running] = {}
    delayed: set[Step] = set()
    clock = _Clock(sum(step.cost for step in waiting))
    with StopRequest() as stop, _stopping(running):
        while waiting or running:
            for step in list(waiting):
                lost = outcome.failed.keys() | outcome.skipped
                if lost.intersection(step.needs):
                    waiting.remove(step)
                    outcome.skipped.add(step.name)
                    clock.drop(step.cost)
                elif len(running) < jobs and done.issuperset(step.needs):
                    started = _start(step, folder, environment)
                    if started is not None:
                        waiting.remove(step)
                        running[step] = started
                    elif step not in delayed:
                        delayed.add(step)
                        say(f'{step.name} of a killed command still runs')
            time.sleep(_POLL_SECONDS)
            stop.raise_if_requested()
            for step, (process, start) in list(running.items()):
                if process.poll() is None:
                    continue
                del running[step]
                seconds = time.monotonic() - start
                _finish(step, process.returncode, seconds, folder, outcome)
                clock.count(step.cost)
                ended = len(done) + len(outcome.failed)
                how = 'failed after' if step.name in outcome.failed else 'in'
                say(
                    f'[{ended}/{len(steps)}] {step.name} {how} '
                    f'{seconds:.0f} s; {clock.remaining()}'
                )
    return outcome


class _Clock:
    """Estimates the remaining time from the costs of the ended steps."""

    def __init__(self, cost: float) -> None:
        self._left = cost
        self._spent = 0.0
        self._start = time.monotonic()

    def count(self, cost: float) -> None:
        self._left -= cost
        self._spent += cost

    def drop(self, cost: float) -> None:
        self._left -= cost

    def remaining(self) -> str:
        passed = time.monotonic() - self._start
        minutes = passed / self._spent * max(self._left, 0) / 60
        return f'about {minutes:.0f} min left'


def _ended_before(
    steps: Sequence[Step], folder: Path, say: Callable[[str], object]
) -> set[str]:
    """The steps that have ended and whose outputs are not damaged.

    An output that no step and no report needs any more may be removed.
    """
    needed_by_some = {name for step in steps for name in step.needs}
    needed: set[str] = set()
    done = set()
    for step in reversed(steps):
        is_read = step.name in needed or step.name not in needed_by_some
        if done_file(folder, step.name).exists():
            damaged = _damaged_outputs(step, folder) if is_read else []
            if not damaged:
                done.add(step.name)
                continue
            for path in damaged:
                (folder / path).unlink(missing_ok=True)
            say(
                f'{step.name} runs again: {damaged[0]} is missing or has '
                'become smaller'
            )
        needed.update(step.needs)
    return done


def _damaged_outputs(step: Step, folder: Path) -> list[str]:
    """Files of an ended step that are missing or have become smaller.

    Its own record is one of them if it cannot be read.
    """
    record = done_file(folder, step.name)
    try:
        sizes = json.loads(record.read_bytes()).get('sizes', {})
    except (ValueError, AttributeError):
        return [str(record.relative_to(folder))]
    current = _sizes(step, folder)
    return [p for p, size in sizes.items() if current.get(p, -1) < size]


def _sizes(step: Step, folder: Path) -> dict[str, int]:
    """The size in bytes of each file that a step has made."""
    found = {}
    for output in step.outputs:
        path = folder / output
        files = sorted(path.rglob('*')) if path.is_dir() else [path]
        for file in files:
            if file.is_file():
                found[str(file.relative_to(folder))] = file.stat().st_size
    return found


def done_file(folder: Path, name: str) -> Path:
    """The file that says that a step has ended, with its seconds."""
    return folder / 'steps' / f'{name}.json'


def log_file(folder: Path, name: str) -> Path:
    """The file with the output of a step."""
    return folder / 'logs' / f'{name}.log'


def printed_lines(folder: Path, name: str) -> list[str]:
    """The lines that a step has printed, each once."""
    try:
        text = log_file(folder, name).read_text('utf-8', 'replace')
    except FileNotFoundError:
        return []
    return list(dict.fromkeys(filter(str.strip, text.splitlines())))


def _start(
    step: Step, folder: Path, environment: Mapping[str, str]
) -> _Running | None:
    """Start a step; None while an earlier process of it still runs.

    A step that is a child of a killed process ends a while after it. It has
    inherited the lock of its log.
    """
    make_folder(folder / 'logs')
    with open(log_file(folder, step.name), 'ab') as log:
        if not lock_file(log):
            return None
        process = subprocess.Popen(
            step.command,
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # signals go to this program alone
            preexec_fn=end_with_parent,
        )
    return _Running(process, time.monotonic())


def _finish(
    step: Step, code: int, seconds: float, folder: Path, outcome: Outcome
) -> None:
    if code == 0:
        path = done_file(folder, step.name)
        make_folder(path.parent)
        fact = dict(
            seconds=round(seconds, 1),
            command=step.command,
            sizes=_sizes(step, folder),
        )
        write_atomically(path, json.dumps(fact).encode())
        outcome.done.add(step.name)
        return
    log = log_file(folder, step.name)
    lines = log.read_bytes()[-20000:].decode('utf-8', 'replace').splitlines()
    written = (line for line in reversed(lines) if line.strip())
    last = next(written, 'it has written nothing')
    outcome.failed[step.name] = (
        f'exit status {code}: {last.strip()} (see {log})'
    )


@contextlib.contextmanager
def _stopping(running: Mapping[Step, _Running]) -> Iterator[None]:
    """Stop the running steps if the block ends by an exception."""
    try:
        yield
    except BaseException:
        for process, _ in running.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        end = time.monotonic() + _STOP_SECONDS
        for process, _ in running.values():
            try:
                process.wait(max(0.1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        raise
