# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""A time limit for calls that a file system can block.

A read from a network mount that does not respond cannot be interrupted. The
call runs in a daemon thread, which is abandoned after the time limit. Threads
are reused, so a call costs about 20 microseconds.
"""

import os
import queue
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar('T')
READ_SECONDS_VARIABLE = 'MINIGPT4_READ_SECONDS'
_DEFAULT_SECONDS = 60.0


class ReadTimeoutError(OSError):
    """A file system did not respond within the time limit."""


def read_seconds() -> float:
    """Return the time limit of one read of a user's file, by default 60 s.

    The environment variable ``MINIGPT4_READ_SECONDS`` sets it.

    Raises:
        ValueError: The variable is not a number above 0.
    """
    text = os.environ.get(READ_SECONDS_VARIABLE)
    if text is None:
        return _DEFAULT_SECONDS
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= threading.TIMEOUT_MAX:
        raise ValueError(
            f'{READ_SECONDS_VARIABLE} is {text!r}; expected a number of '
            'seconds above 0.'
        )
    return seconds


class _CallThread:
    """A daemon thread that runs one call after the other."""

    def __init__(self) -> None:
        self.calls: queue.SimpleQueue = queue.SimpleQueue()
        self.results: queue.SimpleQueue = queue.SimpleQueue()
        threading.Thread(
            target=self._run, name='minigpt4-read', daemon=True
        ).start()

    def _run(self) -> None:
        while True:
            call = self.calls.get()
            try:
                result, error = call(), None
            except BaseException as raised:
                result, error = None, raised
            self.results.put((result, error))
            # no reference to the result until the next call
            del call, result, error


_idle_threads: list[_CallThread] = []
# threads do not survive a fork
os.register_at_fork(after_in_child=_idle_threads.clear)


def call_with_limit(call: Callable[[], T], name: str) -> T:
    """Run a call that may block, with a time limit.

    Args:
        call: The function to run in another thread.
        name: What it reads, for the error message.

    Raises:
        ReadTimeoutError: The call did not return in time. Its thread is
            abandoned and its later result is dropped.
    """
    seconds = read_seconds()
    try:
        thread = _idle_threads.pop()
    except IndexError:
        thread = _CallThread()
    thread.calls.put(call)
    try:
        result, error = thread.results.get(timeout=seconds)
    except queue.Empty:
        raise ReadTimeoutError(
            f'{name} was not read within {seconds:g} seconds (the file '
            f'system does not respond); set {READ_SECONDS_VARIABLE} to wait '
            'longer.'
        ) from None
    _idle_threads.append(thread)
    if error is not None:
        raise error
    return result
