# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Stopping on SIGINT, SIGTERM and SIGHUP: now, or after the current step.

Schedulers (Slurm, Kubernetes, systemd) send SIGTERM, wait, then SIGKILL. A
closed terminal sends SIGHUP, Ctrl-C sends SIGINT. Each command handles them
in one of two ways:

- :func:`raise_on_signals` raises :class:`StopSignal` in the main thread, so
  that ``with`` and ``finally`` blocks clean up as after Ctrl-C.
- :class:`StopRequest` notes the signal; a loop asks after each step.

With both, a second signal ends the process at once. A signal that comes less
than :data:`REPEAT_SECONDS` after the first is the first one again: schedulers
signal all processes of a job, and a launcher passes the signal on as well.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from types import FrameType

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
    """128 + the signal's number, as shells and schedulers expect it."""
    return 128 + getattr(stop, 'signum', signal.SIGINT)


class StopRequest:
    """A context manager that notes a stop signal instead of ending.

    Outside the main thread no handler can be installed; then nothing is
    noted. A signal that the process was started to ignore (``nohup``) stays
    ignored.

    Attributes:
        signum: The signal's number; None while no signal has come.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._since = 0.0
        self._process = os.getpid()
        self._previous: dict[int, object] = {}

    def __enter__(self) -> 'StopRequest':
        self._previous = _install(self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        _restore(self._previous)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return  # a forked data worker, which its parent ends
        if self.signum is None:
            self.signum, self._since = signum, time.monotonic()
        elif time.monotonic() - self._since > REPEAT_SECONDS:
            end_at_once(signum)

    def raise_if_requested(self) -> None:
        """Raise :class:`StopSignal` where a signal has come."""
        if self.signum is not None:
            raise StopSignal(self.signum)


@contextlib.contextmanager
def raise_on_signals(
    note: str = '', signals: Sequence[signal.Signals] = STOP_SIGNALS
) -> Iterator[None]:
    """Raise :class:`StopSignal` in the main thread at the first signal.

    Args:
        note: What is kept, for the user; it is added to the message of a
            StopSignal or KeyboardInterrupt that leaves the block.
        signals: Which signals; the others stay as they are.
    """
    since: float | None = None

    def handle(signum: int, frame: FrameType | None) -> None:
        nonlocal since
        if since is None:
            since = time.monotonic()
            raise StopSignal(signum)
        if time.monotonic() - since > REPEAT_SECONDS:
            end_at_once(signum)

    previous = _install(handle, signals)
    try:
        yield
    except KeyboardInterrupt as stop:
        if note:
            stop.args = (f'{str(stop) or "stopped by Ctrl-C"}; {note}',)
        raise
    finally:
        _restore(previous)


@contextlib.contextmanager
def blocked_signals() -> Iterator[None]:
    """Hold stop signals back; processes started inside never get them.

    For data workers, which end with their parent: a signal to the whole
    process group would otherwise end them in the middle of a step.
    """
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def end_at_once(signum: int) -> None:
    """End this process by the default action of a signal."""
    signal.signal(signum, signal.SIG_DFL)
    os.kill(os.getpid(), signum)


def _install(
    handler, signals: Sequence[signal.Signals] = STOP_SIGNALS
) -> dict[int, object]:
    if threading.current_thread() is not threading.main_thread():
        return {}
    previous: dict[int, object] = {}
    for signum in signals:
        if signal.getsignal(signum) is not signal.SIG_IGN:
            previous[signum] = signal.signal(signum, handler)
    return previous


def _restore(previous: dict) -> None:
    for signum, handler in previous.items():
        # None: the handler was not installed from Python
        signal.signal(signum, signal.SIG_DFL if handler is None else handler)
