# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Stopping on SIGINT, SIGTERM and SIGHUP: now, or after the current step.

Schedulers (Slurm, Kubernetes, systemd) send SIGTERM, wait, then SIGKILL. A
closed terminal sends SIGHUP, Ctrl-C sends SIGINT. Each command handles them
in one of two ways:

- :func:`raise_on_signals` raises :class:`StopSignal` in the main thread, so
  that ``with`` and ``finally`` blocks clean up as after Ctrl-C.
- :class:`StopRequest` notes the signal; a loop asks after each step.

With both, a second signal ends the process at once.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from types import FrameType

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopSignal(KeyboardInterrupt):
    """A signal asked the process to stop.

    Args:
        signum: The signal's number.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(f'stopped by {signal.Signals(signum).name}')
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
        self._previous: dict[int, object] = {}

    def __enter__(self) -> 'StopRequest':
        self._previous = _install(self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        _restore(self._previous)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is not None:
            end_at_once(signum)
        self.signum = signum

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
    received = False

    def handle(signum: int, frame: FrameType | None) -> None:
        nonlocal received
        if received:
            end_at_once(signum)
        received = True
        raise StopSignal(signum)

    previous = _install(handle, signals)
    try:
        yield
    except KeyboardInterrupt as stop:
        if note:
            stop.args = (f'{str(stop) or "stopped by Ctrl-C"}; {note}',)
        raise
    finally:
        _restore(previous)


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
