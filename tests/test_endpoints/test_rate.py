# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Requests are spaced; a pause delays all threads."""

import threading
import time

from minigpt4.endpoints.rate import RateLimiter


def seconds(limiter, count, tokens=1):
    ended = threading.Event()
    start = time.monotonic()
    for _ in range(count):
        assert limiter.acquire(tokens, ended)
    return time.monotonic() - start


def test_without_limits_nothing_waits():
    assert seconds(RateLimiter(), 1000) < 60


def test_requests_and_tokens_are_limited():
    assert seconds(RateLimiter(requests_per_minute=600), 4) >= 0.29
    assert seconds(RateLimiter(tokens_per_minute=60_000), 4, 100) >= 0.29


def test_a_pause_delays_and_an_end_interrupts():
    limiter = RateLimiter()
    limiter.pause(0.3)
    limiter.pause(0.1)
    assert seconds(limiter, 1) >= 0.29
    limiter.pause(3600)
    ended = threading.Event()
    threading.Timer(0.1, ended.set).start()
    start = time.monotonic()
    assert not limiter.acquire(1, ended)
    assert time.monotonic() - start < 300
