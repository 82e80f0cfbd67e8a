# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Blocking calls in daemon threads, which delay neither others nor the exit.

A name look-up and a read from a network file system cannot be cancelled. In
the event loop's own thread pool a few slow calls would block all others, and
the process could not exit before they return.
"""

import asyncio
import threading
from collections.abc import Callable
from typing import Any


class TooManyCallsError(OSError):
    """The maximum number of calls is running."""


class DaemonThreads:
    """Runs blocking calls, each in its own daemon thread.

    Args:
        name: The name of the threads.
        max_calls: Calls that may run at the same time, those included whose
            caller has given up.

    Attributes:
        running: Calls that run.
    """

    def __init__(self, name: str, max_calls: int) -> None:
        self.name = name
        self.max_calls = max_calls
        self.running = 0
        self._lock = threading.Lock()

    async def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function in a thread and wait for its result.

        Raises:
            TooManyCallsError: Too many calls are running.
            Exception: What the function raises.
        """
        with self._lock:
            if self.running >= self.max_calls:
                raise TooManyCallsError('the server is busy; try again later')
            self.running += 1
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[Any] = loop.create_future()

        def settle(result: Any, error: Exception | None) -> None:
            if outcome.done():  # the caller has given up
                return
            if error is None:
                outcome.set_result(result)
            else:
                outcome.set_exception(error)

        def call() -> None:
            result, error = None, None
            try:
                result = function(*args)
            except Exception as reason:  # raised again in the caller
                error = reason
            finally:
                with self._lock:
                    self.running -= 1
            try:
                loop.call_soon_threadsafe(settle, result, error)
            except RuntimeError:
                return  # the loop has ended, and the caller with it

        threading.Thread(target=call, name=self.name, daemon=True).start()
        return await outcome
