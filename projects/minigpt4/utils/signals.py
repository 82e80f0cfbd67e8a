# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Stop on SIGINT, SIGTERM or SIGHUP, immediately or after the current step.

Schedulers (Slurm, Kubernetes, systemd) send SIGTERM, wait, then SIGKILL. A
closed terminal sends SIGHUP, Ctrl-C sends SIGINT. Each command handles them
in one of two ways:

- :func:`raise_on_signals` raises :class:`StopSignal` in the main thread, so
  that ``with`` and ``finally`` blocks clean up as after Ctrl-C.
- :class:`StopRequest` records the signal; a loop checks it after each step.

With both, a second signal ends the process immediately. A signal that arrives
less than :data:`REPEAT_SECONDS` after the first counts as the first one:
schedulers signal all processes of a job, and a launcher forwards the signal
as well.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
REPEAT_SECONDS = 1.0


class StopSignal(KeyboardInterrupt):
    """A signal asked the process to stop.

    Args:
        signum: The signal's number.
        message: What to print; by default ``stopped by SIGTERM``.
    """

    def __init__(self, signum: int, message: str | None = None) -> None:
        name = signal.Signals(signum).name
        super().__init__(message or f'stopped by {name}')
        self.signum = signum


def exit_status(stop: KeyboardInterrupt) -> int:
    """Return 128 + the signal's number, as shells and schedulers expect."""
    return 128 + getattr(stop, 'signum', signal.SIGINT)


class StopRequest:
    """Context manager that records a stop signal instead of ending.

    Outside the main thread no handler can be installed; then no signal is
    recorded. A signal that the process was started to ignore (``nohup``)
    stays ignored.

    Attributes:
        signum: The signal's number; None before a signal arrives.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._since = 0.0
        self._process = os.getpid()
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> 'StopRequest':
        self._previous = _install(self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        _restore(self._previous)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return  # in a forked data worker, which its parent stops
        if self.signum is None:
            self.signum, self._since = signum, time.monotonic()
        elif time.monotonic() - self._since > REPEAT_SECONDS:
            end_immediately(signum)

    def raise_if_requested(self) -> None:
        """Raise :class:`StopSignal` if a signal has arrived."""
        if self.signum is not None:
            raise StopSignal(self.signum)


@contextlib.contextmanager
def raise_on_signals(
    note: str = '', signals: Sequence[signal.Signals] = STOP_SIGNALS
) -> Iterator[None]:
    """Raise :class:`StopSignal` in the main thread at the first signal.

    A KeyboardInterrupt after it becomes a StopSignal again: Ray raises one
    in place of what a handler raises while Ray waits.

    Args:
        note: Text for the user, e.g. which results are saved. It is added
            to the message of a StopSignal or KeyboardInterrupt that leaves
            the block.
        signals: The signals to handle; others keep their handlers.
    """
    since: float | None = None
    first = 0

    def handle(signum: int, frame: FrameType | None) -> None:
        nonlocal since, first
        if since is None:
            since, first = time.monotonic(), signum
            raise StopSignal(signum)
        if time.monotonic() - since > REPEAT_SECONDS:
            end_immediately(signum)

    previous = _install(handle, signals)
    try:
        yield
    except KeyboardInterrupt as raised:
        is_lost = first and not isinstance(raised, StopSignal)
        stop = StopSignal(first) if is_lost else raised
        if note:
            stop.args = (f'{str(stop) or "stopped by Ctrl-C"}; {note}',)
        raise stop from raised.__cause__
    finally:
        _restore(previous)


@contextlib.contextmanager
def blocked_signals() -> Iterator[None]:
    """Block stop signals; processes started inside never receive them.

    For data workers, which end with their parent: a signal to the process
    group would otherwise end them in the middle of a step.
    """
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def end_immediately(signum: int) -> None:
    """End this process with the default action of a signal."""
    signal.signal(signum, signal.SIG_DFL)
    os.kill(os.getpid(), signum)


def _install(
    handler: Callable[[int, FrameType | None], None],
    signals: Sequence[signal.Signals] = STOP_SIGNALS,
) -> dict[int, Any]:
    """Install a handler; return the handlers that it replaces."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    previous: dict[int, Any] = {}
    for signum in signals:
        if signal.getsignal(signum) is not signal.SIG_IGN:
            previous[signum] = signal.signal(signum, handler)
    return previous


def _restore(previous: dict[int, Any]) -> None:
    for signum, handler in previous.items():
        # None: a handler that was not installed from Python
        signal.signal(signum, signal.SIG_DFL if handler is None else handler)
