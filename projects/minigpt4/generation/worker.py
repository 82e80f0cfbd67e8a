# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""A thread that runs an engine for many callers."""

import threading
import time
from collections.abc import Sequence

from torch import Tensor

from ..prompts import TokenizedPrompt
from .engine import Engine
from .request import GenerationRequest


class QueueFull(RuntimeError):
    """Too many requests wait.

    Attributes:
        retry_after: Seconds after which a place is likely to be free.
    """

    def __init__(self, waiting: int, retry_after: float) -> None:
        super().__init__(
            f'{waiting} requests wait already; try again in '
            f'{retry_after:.0f} seconds.'
        )
        self.retry_after = retry_after


class EngineWorker:
    """Runs an engine in a thread of its own.

    Args:
        engine: The engine, which nobody else may step from now on.
        max_waiting: Requests that may wait for a slot.
    """

    def __init__(self, engine: Engine, max_waiting: int = 64) -> None:
        self.engine = engine
        self.max_waiting = max_waiting
        self._work = threading.Condition()
        self._open = True
        self._began: dict[GenerationRequest, float] = {}  # those not ended
        self._seconds = 1.0  # that an answer takes, a moving mean
        engine.has_worker = True
        self._thread = threading.Thread(
            target=self._run, name='minigpt4-engine', daemon=True
        )
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread still runs."""
        return self._thread.is_alive()

    @property
    def waiting(self) -> int:
        """Requests that have not been admitted."""
        return self.engine.waiting

    @property
    def running(self) -> int:
        """Answers that are being written."""
        return self.engine.running

    def submit(
        self, row: TokenizedPrompt, images: Sequence[Tensor] = (), **settings
    ) -> GenerationRequest:
        """Ask for an answer, from any thread; see :meth:`Engine.submit`.

        Raises:
            QueueFull: Too many requests wait.
            RuntimeError: The worker is closed.
        """
        with self._work:
            if not self._open:
                raise RuntimeError(
                    'the engine is closing and takes no more requests.'
                )
            free = self.engine.slots - self.running
            if self.waiting >= self.max_waiting + free:
                rounds = 1 + self.waiting // self.engine.slots
                raise QueueFull(self.waiting, max(1, rounds * self._seconds))
            generation = self.engine.submit(row, images, **settings)
            self._began[generation] = time.monotonic()
            self._work.notify_all()

        def note_end(piece: str | None) -> None:
            # in the engine's thread, which must not wait for a lock here
            if piece is None:
                took = time.monotonic() - self._began.pop(generation)
                self._seconds += 0.2 * (took - self._seconds)

        generation.listen(note_end)
        return generation

    def cancel_all(self) -> int:
        """Cancel all answers that run or wait; returns how many."""
        with self._work:
            generations = list(self._began)
        for generation in generations:
            generation.cancel()
        return len(generations)

    def close(self, drain: bool = True) -> None:
        """End the thread.

        Args:
            drain: Whether answers that run or wait are finished first; else
                they are cancelled.
        """
        with self._work:
            self._open = False
            if not drain:
                for generation in list(self._began):
                    generation.cancel()
            self._work.notify_all()
        self._thread.join()
        self.engine.has_worker = False

    def _run(self) -> None:
        while True:
            if self.engine.step():
                continue
            with self._work:
                if self.engine.waiting:
                    continue
                if not self._open:
                    return
                self._work.wait()
