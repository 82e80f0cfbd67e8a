# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Slow host names do not delay other look-ups or calls."""

import asyncio
import socket
import threading
import time

import pytest

from minigpt4.images import host_lookup as resolver
from minigpt4.images.host_lookup import Resolver
from minigpt4.utils.threads import TooManyCallsError


@pytest.fixture
def slow(monkeypatch):
    """Names that contain "slow" are answered when the test ends."""
    ended = threading.Event()
    real = socket.getaddrinfo

    def look_up(host, port, **settings):
        if settings.get('flags') or '.' not in host:
            return real(host, port, **settings)
        if 'slow' in host:
            ended.wait(600)
            raise socket.gaierror('slow')
        return [(2, 1, 6, '', ('93.184.216.34', port))]

    monkeypatch.setattr(socket, 'getaddrinfo', look_up)
    yield
    ended.set()


def look_up_slow_names(names, seconds):
    return [
        asyncio.ensure_future(
            names.addresses(f'slow{i}.example{i}.com', 80, seconds)
        )
        for i in range(80)
    ]


def test_slow_names_delay_no_other_call(slow):
    names = Resolver()

    async def run():
        lookups = look_up_slow_names(names, 600)
        await asyncio.sleep(0.05)
        found = await names.addresses('quick.com', 80, 60)
        assert found == ['93.184.216.34']
        # other calls in the event loop's own threads
        await asyncio.to_thread(time.sleep, 0)
        assert not any(lookup.done() for lookup in lookups)
        for lookup in lookups:
            lookup.cancel()
        await asyncio.gather(*lookups, return_exceptions=True)

    asyncio.run(run())


def test_slow_names_end_at_their_time_limit(slow):
    async def run():
        lookups = look_up_slow_names(Resolver(), 0.5)
        return await asyncio.gather(*lookups, return_exceptions=True)

    errors = asyncio.run(run())
    assert all('within 0.5 seconds' in str(error) for error in errors)


def test_one_domain_cannot_use_all_threads(slow):
    names = Resolver()

    async def run():
        tasks = [
            asyncio.ensure_future(
                names.addresses(f'slow{i}.evil.example', 80, 0.3)
            )
            for i in range(resolver.MAX_LOOKUPS + 20)
        ]
        await asyncio.sleep(0.05)
        assert await names.addresses('quick.com', 80, 60)
        return await asyncio.gather(*tasks, return_exceptions=True)

    errors = asyncio.run(run())
    busy = [error for error in errors if isinstance(error, TooManyCallsError)]
    late = [error for error in errors if 'within 0.3 seconds' in str(error)]
    assert len(late) == resolver.MAX_PER_DOMAIN
    assert len(busy) + len(late) == len(errors)


def test_ip_addresses_need_no_thread(monkeypatch):
    monkeypatch.setattr(threading, 'Thread', None)
    for text, address in (
        ('127.0.0.1', '127.0.0.1'),
        ('0x7f.1', '127.0.0.1'),
        ('2130706433', '127.0.0.1'),
        ('::1', '::1'),
    ):
        found = asyncio.run(Resolver().addresses(text, 80, 1))
        assert found == [address]
