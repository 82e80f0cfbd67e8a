# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Blocking calls in daemon threads."""

import asyncio
import threading

import pytest

from minigpt4.utils.threads import DaemonThreads, TooManyCallsError


def test_too_many_calls_are_refused_and_errors_are_raised():
    threads = DaemonThreads('test', 1)
    ended = threading.Event()

    def fail():
        raise KeyError('a')

    async def run():
        with pytest.raises(KeyError):
            await threads.run(fail)
        first = asyncio.ensure_future(threads.run(ended.wait, 60))
        await asyncio.sleep(0)
        with pytest.raises(TooManyCallsError):
            await threads.run(fail)
        ended.set()
        assert await first
        assert threads.running == 0

    asyncio.run(run())
