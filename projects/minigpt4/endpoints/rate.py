# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Limits on requests and tokens per minute, for all threads of a process."""

import threading
import time


class RateLimiter:
    """Delays requests so that they keep two rates and the endpoint's pauses.

    Requests are spaced evenly; there are no bursts after idle times.

    Args:
        requests_per_minute: The most requests; None is no limit.
        tokens_per_minute: The most tokens; None is no limit.
    """

    def __init__(
        self,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
    ) -> None:
        self._request_seconds = _seconds(requests_per_minute)
        self._token_seconds = _seconds(tokens_per_minute)
        self._lock = threading.Lock()
        self._next_request = self._next_tokens = self._paused_until = 0.0

    def acquire(self, tokens: int, ended: threading.Event) -> bool:
        """Wait until a request may be sent.

        Args:
            tokens: Of the request, with those of its answer.
            ended: Ends the wait.

        Returns:
            False if ``ended`` was set.
        """
        with self._lock:
            start = max(
                time.monotonic(), self._next_request, self._next_tokens
            )
            self._next_request = start + self._request_seconds
            self._next_tokens = start + tokens * self._token_seconds
        while not ended.is_set():
            wait = max(start, self._paused_until) - time.monotonic()
            if wait <= 0:
                return True
            ended.wait(wait)
        return False

    def pause(self, seconds: float) -> None:
        """Send no request for some time: the endpoint asked for it."""
        with self._lock:
            self._paused_until = max(
                self._paused_until, time.monotonic() + seconds
            )


def _seconds(per_minute: float | None) -> float:
    return 60 / per_minute if per_minute else 0.0
