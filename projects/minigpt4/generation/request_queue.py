# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Requests that wait for a KV slot."""

import threading
from collections import deque
from collections.abc import Sequence

from .prefix_cache import MIN_COPIED_TOKENS
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


def split_shared_prompts(
    requests: Sequence[GenerationRequest],
) -> tuple[list[GenerationRequest], list[GenerationRequest]]:
    """Separate requests that begin as an earlier one of them.

    These have the same prompt, or the same up to the end of its first image.
    Short ones are computed again.

    Returns:
        The requests to prefill first, and those that reuse their K and V.
    """
    firsts, others, seen = [], [], set()
    for request in requests:
        key = request.cache_key
        begin = _begin(key)
        if not request.uses_prefix_cache or len(key) <= MIN_COPIED_TOKENS:
            firsts.append(request)
        elif begin in seen:
            others.append(request)
        else:
            firsts.append(request)
            seen.add(begin)
    return firsts, others


def _begin(key: Sequence[int]) -> tuple[int, ...]:
    """A prompt up to the end of its first image; all of it without one.

    It has as many tokens at least as can be copied.
    """
    start = next((i for i, entry in enumerate(key) if entry < 0), len(key))
    end = start
    while end < len(key) and key[end] == key[start]:
        end += 1
    return tuple(key[: max(end, MIN_COPIED_TOKENS)])
