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
import shutil
import signal
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

from ..utils.atomic import make_folder, write_atomically
from ..utils.locks import lock_file
from ..utils.regular_files import NotRegularFileError, read_regular
from ..utils.signals import StopRequest
from .machine import machine, versions
from .step_processes import send_signal, start_process

_ATTEMPT = '--- step begins at '  # in its log, before each attempt
_POLL_SECONDS = 0.2
_STOP_SECONDS = 60.0  # for a training to save its checkpoint
_LEAST_BYTES = 1 << 20  # of free space; below it, the disk is full


class Step(NamedTuple):
    """A Python command.

    Attributes:
        name: Its name, unique in a plan.
        command: Interpreter, program and arguments.
        needs: Names of the steps that must have ended before.
        cost: About how long it takes, in any unit; for the estimate of the
            remaining time.
        outputs: Files and folders that it makes, relative to the working
            folder, without those that others may remove.
        check: Says in one sentence what they lack, '' if nothing. Its
            argument is the working folder. Such a step has failed, and the
            folders among its outputs are removed, so that it begins again.
        needs_all: Whether it is skipped if one of ``needs`` failed. If not,
            it runs without it, and again with the next call.
        in_report: Whether the report reads them too.
        begins_after: The step among ``needs`` whose output it is about: if
            that step runs again, the folders among the outputs of this one
            are removed first, since a command does not continue what it has
            begun with another file.
    """

    name: str
    command: tuple[str, ...]
    needs: tuple[str, ...] = ()
    cost: float = 1.0
    outputs: tuple[str, ...] = ()
    check: Callable[[Path], str] | None = None
    needs_all: bool = True
    in_report: bool = False
    begins_after: str = ''


class Outcome(NamedTuple):
    """How the steps ended.

    Attributes:
        done: Names of the steps that have ended.
        failed: Why each step failed: what its outputs lack, a full disk, the
            signal that ended it, or the last line of its log.
        skipped: Names of the steps that need one that failed.
    """

    done: set[str]
    failed: dict[str, str]
    skipped: set[str]


class _Running(NamedTuple):
    process: BaseProcess
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
    waiting = _longest_first([s for s in steps if s.name not in done])
    if done:
        say(f'{len(done)} of {len(steps)} steps have ended before')
    running: dict[Step, _Running] = {}
    delayed: set[Step] = set()
    clock = _Clock(sum(step.cost for step in waiting))
    with StopRequest() as stop, _stopping(running):
        while waiting or running:
            for step in list(waiting):
                lost = outcome.failed.keys() | outcome.skipped
                over = done | lost
                if step.needs_all and lost.intersection(step.needs):
                    waiting.remove(step)
                    outcome.skipped.add(step.name)
                    clock.drop(step.cost)
                elif len(running) < jobs and over.issuperset(step.needs):
                    try:
                        started = _start(step, folder, environment)
                    except (EOFError, ConnectionError):
                        # the signal has ended what starts the processes
                        stop.raise_if_requested()
                        raise
                    if started is not None:
                        waiting.remove(step)
                        running[step] = started
                    elif step not in delayed:
                        delayed.add(step)
                        say(f'{step.name} of a killed command still runs')
            time.sleep(_POLL_SECONDS)
            stop.raise_if_requested()
            for step, (process, start) in list(running.items()):
                code = process.exitcode
                if code is None:
                    continue
                del running[step]
                seconds = time.monotonic() - start
                if code == 0:
                    for other in waiting:
                        if other.begins_after == step.name:
                            _remove_folders(other, folder)
                _finish(step, code, seconds, folder, outcome)
                clock.count(step.cost)
                ended = len(done) + len(outcome.failed)
                how = 'failed after' if step.name in outcome.failed else 'in'
                say(
                    f'[{ended}/{len(steps)}] {step.name} {how} '
                    f'{seconds:.0f} s; {clock.remaining()}'
                )
    return outcome


def _longest_first(steps: Sequence[Step]) -> list[Step]:
    """Sort steps by the cost of the longest chain that begins with them.

    Otherwise the trainings that others start from would wait for tests.
    """
    costs: dict[str, float] = {}
    for step in reversed(steps):
        after = [
            costs[other.name] for other in steps if step.name in other.needs
        ]
        costs[step.name] = step.cost + max(after, default=0.0)
    return sorted(steps, key=lambda step: -costs[step.name])


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
            damaged = []
            if is_read or step.in_report:
                damaged = _damaged_outputs(step, folder)
            if not damaged:
                done.add(step.name)
                continue
            for path in damaged:
                _remove(folder / path)
            _remove(done_file(folder, step.name))
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
        sizes = json.loads(read_regular(record)).get('sizes', {})
        # pathlib would take several times as long for thousands of images
        return [
            path
            for path, size in sizes.items()
            if _size(os.path.join(folder, path)) < size
        ]
    except (OSError, ValueError, AttributeError, TypeError):
        return [str(record.relative_to(folder))]


def _sizes(step: Step, folder: Path) -> dict[str, int]:
    """The size in bytes of each file that a step has made."""
    files = (
        os.path.join(parent.removeprefix(f'{folder}{os.sep}'), name)
        for output in step.outputs
        for parent, _, names in os.walk(folder / output)
        for name in names
    )
    sizes = {
        path: _size(os.path.join(folder, path))
        for path in sorted({*step.outputs, *files})
    }
    return {path: size for path, size in sizes.items() if size >= 0}


def _size(path: str) -> int:
    """The size of a file in bytes; -1 if there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return -1
    return found.st_size if stat.S_ISREG(found.st_mode) else -1


def done_file(folder: Path, name: str) -> Path:
    """The file that says that a step has ended, how long it took and where."""
    return folder / 'steps' / f'{name}.json'


def log_file(folder: Path, name: str) -> Path:
    """The file with the output of a step."""
    return folder / 'logs' / f'{name}.log'


def printed_lines(folder: Path, name: str) -> list[str]:
    """The lines that a step has printed in its last attempt, each once."""
    return list(dict.fromkeys(_last_attempt(log_file(folder, name))))


def _last_attempt(log: Path) -> list[str]:
    """The lines of the last attempt in a log that are not empty."""
    try:
        text = log.read_text('utf-8', 'replace')
    except FileNotFoundError:
        return []
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith(_ATTEMPT):
            lines.clear()
        elif line.strip():
            lines.append(line)
    return lines


def _start(
    step: Step, folder: Path, environment: Mapping[str, str]
) -> _Running | None:
    """Start a step; None while an earlier process of it still runs.

    A step of a killed command ends a while after it. It has locked its log.
    """
    make_folder(folder / 'logs')
    log = log_file(folder, step.name)
    if log.exists() and not log.is_file():  # a FIFO would wait without end
        raise NotRegularFileError(f'{log} is not a regular file; delete it.')
    with open(log, 'ab') as file:
        if not lock_file(file):
            return None
        # what was written last may not end with a line break
        begin = '\n' * (file.tell() > 0) + _ATTEMPT
        file.write(f'{begin}{time.strftime("%Y-%m-%d %H:%M:%S")}\n'.encode())
    process = start_process(step.command, folder, environment, log)
    return _Running(process, time.monotonic())


def _finish(
    step: Step, code: int, seconds: float, folder: Path, outcome: Outcome
) -> None:
    lacks = step.check(folder) if step.check else ''
    if code == 0 and not lacks:
        lacks = _not_made(step, folder)
    if code == 0 and not lacks:
        outcome.done.add(step.name)
        if not outcome.done.issuperset(step.needs):
            return  # without a record it runs again with the next call
        path = done_file(folder, step.name)
        make_folder(path.parent)
        fact = dict(
            seconds=round(seconds, 1),
            command=step.command,
            sizes=_sizes(step, folder),
            machine=machine(),
            versions=versions(),
        )
        write_atomically(path, json.dumps(fact).encode())
        return
    log = log_file(folder, step.name)
    if lacks:
        _remove_folders(step, folder)
        outcome.failed[step.name] = f'{lacks} (see {log})'
        return
    outcome.failed[step.name] = f'{_reason(code, log)} (see {log})'


def _not_made(step: Step, folder: Path) -> str:
    """The output that a step without an error has not made; '' if none.

    A step that runs without what failed may have nothing to make: curves of
    trainings that logged no step.
    """
    if not step.needs_all:
        return ''
    absent = [path for path in step.outputs if not (folder / path).exists()]
    return f'it has ended, but {absent[0]} is missing' if absent else ''


def _reason(code: int, log: Path) -> str:
    """Why a step has failed: how its process ended, and the last line."""
    if shutil.disk_usage(log.parent).free < _LEAST_BYTES:
        return 'no space is left on the disk; free some'
    if code == -signal.SIGKILL:
        return 'was killed (SIGKILL), often because memory ran out'
    last = (_last_attempt(log) or ['it has written nothing'])[-1].strip()
    how = f'exit status {code}'
    if code < 0:
        with contextlib.suppress(ValueError):  # a number without a name
            how = f'was ended by {signal.Signals(-code).name}'
    return f'{how}: {last}'


def _remove(path: Path) -> None:
    """Remove a file or a folder, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _remove_folders(step: Step, folder: Path) -> None:
    """Remove the folders among the outputs of a step."""
    for output in step.outputs:
        shutil.rmtree(folder / output, ignore_errors=True)


@contextlib.contextmanager
def _stopping(running: Mapping[Step, _Running]) -> Iterator[None]:
    """Stop the running steps if the block ends by an exception."""
    try:
        yield
    except BaseException:
        for process, _ in running.values():
            send_signal(process, signal.SIGTERM)
        end = time.monotonic() + _STOP_SECONDS
        for process, _ in running.values():
            process.join(max(0.1, end - time.monotonic()))
            if process.exitcode is None:
                send_signal(process, signal.SIGKILL)
                process.join()
        raise
