# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Requests that wait for a KV slot."""

import threading
from collections import deque

from .request import GenerationRequest

# Waiting requests are admitted together once an eighth of the slots is free,
# because images and prompts are faster in batches; after 8 steps they are
# admitted in any case.
_GROUP_DIVISOR = 8
_MAX_DELAY = 8


class RequestQueue:
    """A first-in, first-out queue that any thread may add to.

    Args:
        slots: The most requests that run at the same time.
    """

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._requests: deque[GenerationRequest] = deque()
        self._delay = 0  # steps since a waiting request could have started
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Number of requests that wait."""
        return len(self._requests)

    def add(self, request: GenerationRequest) -> None:
        """Add a request."""
        with self._lock:
            self._requests.append(request)

    def admit(self, running: int) -> list[GenerationRequest]:
        """Remove the requests that start now, and finish cancelled ones.

        Args:
            running: Number of running requests.
        """
        with self._lock:
            cancelled = [r for r in self._requests if r.cancelled]
            for request in cancelled:
                self._requests.remove(request)
            waiting = len(self._requests)
            number = min(self._slots - running, waiting)
            group = min(waiting, self._slots // _GROUP_DIVISOR)
            if 0 < number < group and self._delay < _MAX_DELAY:
                self._delay += 1
                number = 0
            elif number:
                self._delay = 0
            admitted = [self._requests.popleft() for _ in range(number)]
        for request in cancelled:
            request.finish('cancelled')
        return admitted
