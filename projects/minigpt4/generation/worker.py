# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""A thread that runs an engine for many callers."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from ..prompts import TokenizedPrompt
from .engine import Engine
from .request import GenerationRequest


class QueueFull(RuntimeError):
    """Too many requests wait.

    Attributes:
        retry_after: Seconds after which the queue probably has room.
    """

    def __init__(self, waiting: int, retry_after: float) -> None:
        super().__init__(
            f'{waiting} requests wait already; try again in '
            f'{retry_after:.0f} seconds.'
        )
        self.retry_after = retry_after


class EngineWorker:
    """Runs an engine in its own thread.

    Args:
        engine: The engine; only the worker may run its steps.
        max_waiting: The most requests that wait for a slot.
        clock: Returns seconds, for the duration of answers.

    Attributes:
        answer_seconds: Moving mean of the duration of an answer.
    """

    def __init__(
        self,
        engine: Engine,
        max_waiting: int = 64,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.engine = engine
        self.max_waiting = max_waiting
        self.answer_seconds = 1.0
        self._clock = clock
        self._condition = threading.Condition()
        self._open = True
        self._start_times: dict[GenerationRequest, float] = {}
        engine.has_worker = True
        self._thread = threading.Thread(
            target=self._run, name='minigpt4-engine', daemon=True
        )
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    @property
    def waiting(self) -> int:
        """Number of requests that wait for a slot."""
        return self.engine.waiting

    @property
    def running(self) -> int:
        """Number of requests that have a slot."""
        return self.engine.running

    @property
    def unfinished(self) -> int:
        """Number of requests that are not finished."""
        return len(self._start_times)

    def submit(
        self,
        prompt: TokenizedPrompt,
        images: Sequence[Tensor] = (),
        **settings: Any,
    ) -> GenerationRequest:
        """Add a request, from any thread; see :meth:`Engine.submit`.

        Raises:
            QueueFull: Too many requests wait.
            RuntimeError: The worker is closed.
        """
        with self._condition:
            if not self._open:
                raise RuntimeError(
                    'the engine is closing and takes no more requests.'
                )
            free = self.engine.slots - self.running
            if self.waiting >= self.max_waiting + free:
                rounds = 1 + self.waiting // self.engine.slots
                raise QueueFull(
                    self.waiting, max(1, rounds * self.answer_seconds)
                )
            request = self.engine.submit(prompt, images, **settings)
            self._start_times[request] = self._clock()
            self._condition.notify_all()

        def record_end(piece: str | None) -> None:
            # runs in the engine's thread, which must not wait for a lock here
            if piece is None:
                seconds = self._clock() - self._start_times.pop(request)
                self.answer_seconds += 0.2 * (seconds - self.answer_seconds)

        request.listen(record_end)
        return request

    def cancel_all(self) -> int:
        """Cancel all requests that run or wait; returns their number."""
        with self._condition:
            requests = list(self._start_times)
        for request in requests:
            request.cancel()
        return len(requests)

    def close(self, drain: bool = True) -> None:
        """Stop the thread.

        Args:
            drain: Whether requests that run or wait are finished first; else
                they are cancelled.
        """
        with self._condition:
            self._open = False
            if not drain:
                for request in list(self._start_times):
                    request.cancel()
            self._condition.notify_all()
        self._thread.join()
        self.engine.has_worker = False

    def _run(self) -> None:
        while True:
            if self.engine.step():
                continue
            with self._condition:
                if self.engine.waiting:
                    continue
                if not self._open:
                    return
                self._condition.wait()
