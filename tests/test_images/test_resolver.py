# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Slow host names and slow disks do not delay other requests."""

import asyncio
import socket
import threading
import time

import pytest

from minigpt4.images import fetch as image_fetch
from minigpt4.images import resolver
from minigpt4.images.fetch import ImageError
from minigpt4.images.resolver import Resolver
from minigpt4.images.sources import ImageLimits, ImageSources
from minigpt4.utils.threads import DaemonThreads, TooManyCalls


@pytest.fixture
def slow(monkeypatch):
    """Names that contain "slow" are looked up until the test ends."""
    ended = threading.Event()
    real = socket.getaddrinfo

    def look_up(host, port, **settings):
        if settings.get('flags') or '.' not in host:
            return real(host, port, **settings)
        if 'slow' in host:
            ended.wait(20)
            raise socket.gaierror('slow')
        return [(2, 1, 6, '', ('93.184.216.34', port))]

    monkeypatch.setattr(socket, 'getaddrinfo', look_up)
    monkeypatch.setattr(image_fetch, '_RESOLVER', Resolver())
    yield
    ended.set()


def test_slow_names_delay_no_other_name_and_no_file(slow, tmp_path):
    (tmp_path / 'a.png').write_bytes(b'data')
    sources = ImageSources(ImageLimits(seconds=0.5), tmp_path)

    async def run():
        names = [
            asyncio.ensure_future(
                sources.bytes_of(f'http://slow{i}.example{i}.com/a.png')
            )
            for i in range(80)
        ]
        await asyncio.sleep(0.05)
        began = time.monotonic()
        found = await image_fetch._RESOLVER.addresses('quick.com', 80, 5)
        assert found == ['93.184.216.34']
        assert await sources.bytes_of('file:a.png') == b'data'
        # what else uses the event loop's own threads
        await asyncio.to_thread(time.sleep, 0)
        took = time.monotonic() - began
        refused = await asyncio.gather(*names, return_exceptions=True)
        return took, refused, time.monotonic() - began

    took, refused, total = asyncio.run(run())
    assert took < 0.4 and total < 4
    assert all(isinstance(error, ImageError) for error in refused)


def test_one_domain_cannot_use_all_threads(slow):
    names = Resolver()

    async def run():
        tasks = [
            asyncio.ensure_future(
                names.addresses(f'slow{i}.evil.example', 80, 0.3)
            )
            for i in range(resolver.MOST_LOOKUPS + 20)
        ]
        await asyncio.sleep(0.05)
        assert await names.addresses('quick.com', 80, 5)
        return await asyncio.gather(*tasks, return_exceptions=True)

    errors = asyncio.run(run())
    busy = [error for error in errors if isinstance(error, TooManyCalls)]
    late = [error for error in errors if 'within 0.3 seconds' in str(error)]
    assert len(late) == resolver.MOST_PER_DOMAIN
    assert len(busy) + len(late) == len(errors)


def test_an_address_needs_no_thread(monkeypatch):
    monkeypatch.setattr(threading, 'Thread', None)
    for text, address in (
        ('127.0.0.1', '127.0.0.1'),
        ('0x7f.1', '127.0.0.1'),
        ('2130706433', '127.0.0.1'),
        ('::1', '::1'),
    ):
        found = asyncio.run(Resolver().addresses(text, 80, 1))
        assert found == [address]


def test_calls_beyond_the_most_are_refused_and_errors_are_given_back():
    threads = DaemonThreads('test', 1)
    ended = threading.Event()

    def fail():
        raise KeyError('a')

    async def run():
        with pytest.raises(KeyError):
            await threads.run(fail)
        first = asyncio.ensure_future(threads.run(ended.wait, 5))
        await asyncio.sleep(0)
        with pytest.raises(TooManyCalls):
            await threads.run(fail)
        ended.set()
        assert await first
        assert threads.running == 0

    asyncio.run(run())


def test_a_file_that_hangs_ends_in_time_with_its_name(tmp_path, monkeypatch):
    ended = threading.Event()
    (tmp_path / 'a.png').write_bytes(b'data')
    sources = ImageSources(ImageLimits(seconds=0.2), tmp_path)
    monkeypatch.setattr(sources, '_file', lambda url: ended.wait(10))
    with pytest.raises(ImageError, match='file:a.png was not read within'):
        asyncio.run(sources.bytes_of('file:a.png'))
    ended.set()
