# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Blocking calls in threads that nothing else waits for.

A look-up of a name and a read from a network file system cannot be
cancelled. In the event loop's own pool a few slow ones would stop all
others, and the process could not end before them.
"""

import asyncio
import threading
from collections.abc import Callable
from typing import Any


class TooManyCalls(OSError):
    """As many calls are running as may run at once."""


class DaemonThreads:
    """Runs blocking calls, each in a daemon thread of its own.

    Args:
        name: Of the threads.
        most: Calls that may run at once; those whose caller has given up
            are counted until they end.
    """

    def __init__(self, name: str, most: int) -> None:
        self.name = name
        self.most = most
        self.running = 0
        self._lock = threading.Lock()

    async def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function and wait for its result.

        Raises:
            TooManyCalls: Too many calls are running; also what the function
                raises.
        """
        with self._lock:
            if self.running >= self.most:
                raise TooManyCalls('the server is busy; try again later')
            self.running += 1
        loop = asyncio.get_running_loop()
        answer: asyncio.Future = loop.create_future()

        def settle(result: Any, error: Exception | None) -> None:
            if answer.done():  # the caller has given up
                return
            if error is None:
                answer.set_result(result)
            else:
                answer.set_exception(error)

        def work() -> None:
            result, error = None, None
            try:
                result = function(*args)
            except Exception as reason:  # raised where it was called
                error = reason
            finally:
                with self._lock:
                    self.running -= 1
            try:
                loop.call_soon_threadsafe(settle, result, error)
            except RuntimeError:
                return  # the loop has ended, and the caller with it

        threading.Thread(target=work, name=self.name, daemon=True).start()
        return await answer
