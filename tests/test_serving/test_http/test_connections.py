# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Limits on connections, with real sockets on loopback."""

import asyncio
import contextlib
import logging
import resource
import socket
import time
from dataclasses import replace

import pytest

uvicorn = pytest.importorskip('uvicorn', reason='needs minigpt4[serve]')

from minigpt4.serving.http.connections import (
    ConnectionGuard,
    ConnectionLimits,
    Connections,
    descriptor_budget,
    protocol_of,
)
from minigpt4.serving.http.logs import AcceptErrors

LIMITS = ConnectionLimits(
    total=6,
    per_client=4,
    header_seconds=600,
    idle_seconds=600,
    body_seconds=600,
    send_seconds=600,
)
GET = b'GET /quick HTTP/1.1\r\nHost: a\r\n\r\n'
HEAD = b'POST /quick HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n'
PATIENCE = 60  # seconds that only a fault takes


class Application:
    """Answers when the body has arrived: quickly, later, or endlessly.

    Attributes:
        requests: How many requests have begun.
        may_end: Ends the answers of ``/slow``, and the clean-up of
            ``/cleanup``, which follows the answer.
    """

    def __init__(self) -> None:
        self.requests = 0
        self.may_end = asyncio.Event()

    async def __call__(self, scope, receive, send):
        self.requests += 1
        while (message := await receive()).get('more_body'):
            pass
        if message['type'] == 'http.disconnect':
            return
        await send(dict(type='http.response.start', status=200, headers=[]))
        if scope['path'] == '/slow':
            await self.may_end.wait()
        while scope['path'] == '/endless':
            disconnect = asyncio.ensure_future(receive())
            await send(
                dict(
                    type='http.response.body',
                    body=b'x' * 65536,
                    more_body=True,
                )
            )
            await asyncio.sleep(0)
            if disconnect.done():
                return
            disconnect.cancel()
        await send(dict(type='http.response.body', body=b'done'))
        if scope['path'] == '/cleanup':
            await self.may_end.wait()

    async def until_begun(self, requests: int) -> None:
        """Wait until a number of requests have begun."""
        await until(lambda: self.requests == requests)


class CountedConnections(Connections):
    """Also counts the connections that the server has accepted."""

    accepted = 0

    def add(self, transport) -> bool:
        self.accepted += 1
        return super().add(transport)


async def until(condition) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, 'the condition never held'
        await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def serving(limits=LIMITS, proxies=()):
    """A server; yields ``connect``, its connections and application."""
    connections = CountedConnections(limits, proxies)
    application = Application()
    config = uvicorn.Config(
        ConnectionGuard(application, connections),
        http=protocol_of(connections),
        lifespan='off',
        ws='none',
        log_level='critical',
        timeout_keep_alive=600,  # the limits are shorter
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    with socket.create_server(('127.0.0.1', 0)) as listener:
        port = listener.getsockname()[1]
        task = asyncio.ensure_future(server.serve(sockets=[listener]))
        await until(lambda: server.started)
        writers = []

        async def connect(data: bytes = b'', source: str = '127.0.0.1'):
            number = connections.accepted
            reader, writer = await asyncio.open_connection(
                '127.0.0.1', port, local_addr=(source, 0)
            )
            writers.append(writer)
            await until(lambda: connections.accepted > number)
            writer.write(data)
            return reader, writer

        try:
            yield connect, connections, application
        finally:
            application.may_end.set()
            for writer in writers:
                writer.transport.abort()
            server.should_exit = True
            await task


async def status(reader) -> int:
    """The status of an answer; 0 if the connection was closed."""
    try:
        line = await asyncio.wait_for(reader.readline(), PATIENCE)
    except ConnectionError:
        return 0
    return int(line.split()[1]) if line else 0


async def wait_for_close(reader) -> None:
    """Wait until the server closes a connection."""
    with contextlib.suppress(ConnectionError):
        await asyncio.wait_for(reader.read(), PATIENCE)


def test_idle_connections_are_closed_for_new_ones():
    async def run():
        async with serving() as (connect, connections, _):
            idle = [await connect() for _ in range(8)]
            reader, _ = await connect(GET)
            assert await status(reader) == 200
            assert len(connections) <= LIMITS.per_client
            await wait_for_close(idle[0][0])  # the oldest
            # another client has its own limit
            for _ in range(4):
                await connect(source='127.0.0.2')
            reader, _ = await connect(GET, '127.0.0.3')
            assert await status(reader) == 200
            assert len(connections) <= LIMITS.total

    asyncio.run(run())


def test_answering_connections_are_not_closed_for_new_ones():
    async def run():
        slow = GET.replace(b'quick', b'slow')
        async with serving() as (connect, connections, application):
            answering = [await connect(slow) for _ in range(4)]
            await application.until_begun(4)
            reader, _ = await connect(GET)
            assert await status(reader) == 503
            assert connections.refused == 1
            application.may_end.set()
            for reader, _ in answering:
                assert await status(reader) == 200
                await asyncio.wait_for(
                    reader.readuntil(b'done\r\n0\r\n\r\n'), PATIENCE
                )

    asyncio.run(run())


def test_slow_headers_and_bodies_are_cut_off_in_time():
    limits = replace(LIMITS, header_seconds=0.4, body_seconds=0.4)

    async def run():
        async with serving(limits) as (connect, _, _):

            async def drip(data: bytes) -> float:
                began = time.monotonic()
                reader, writer = await connect(data)
                end = began + PATIENCE
                while time.monotonic() < end and not reader.at_eof():
                    writer.write(b'a')
                    await asyncio.sleep(0.05)
                assert reader.at_eof()
                return time.monotonic() - began

            async def silence(data: bytes) -> float:
                began = time.monotonic()
                reader, _ = await connect(data)
                await wait_for_close(reader)
                return time.monotonic() - began

            seconds = await asyncio.gather(
                drip(b'GET / HTTP/1.1\r\nX: '),
                drip(HEAD[:20]),
                silence(HEAD + b'1'),
                silence(b''),
            )
            assert all(each > 0.3 for each in seconds), seconds

    asyncio.run(run())


def test_idle_time_between_requests_differs_from_header_time():
    """A proxy keeps connections for 60 s and gets no 502 (phalanx #5103)."""
    limits = replace(LIMITS, header_seconds=0.4)

    async def run():
        async with serving(limits) as (connect, _, _):
            reader, writer = await connect(GET)
            await reader.readuntil(b'done\r\n0\r\n\r\n')
            await asyncio.sleep(1.5)  # header_seconds, and a check
            writer.write(GET)
            await reader.readuntil(b'done\r\n0\r\n\r\n')
            began = time.monotonic()
            writer.write(GET[:9])
            await wait_for_close(reader)
            assert time.monotonic() - began > 0.2

    asyncio.run(run())
    assert ConnectionLimits().idle_seconds > 60


def test_a_request_may_begin_before_the_one_before_is_cleaned_up():
    """The connection of the later request was closed."""

    async def run():
        async with serving() as (connect, _, application):
            reader, writer = await connect(GET.replace(b'quick', b'cleanup'))
            await reader.readuntil(b'done\r\n0\r\n\r\n')
            writer.write(HEAD)
            await application.until_begun(2)
            application.may_end.set()
            await asyncio.sleep(1.5)  # beyond the clean-up, and a check
            writer.write(b'9 letters')
            assert await status(reader) == 200

    asyncio.run(run())


def test_a_client_that_reads_nothing_is_disconnected():
    limits = replace(LIMITS, send_seconds=0.4)

    async def run():
        async with serving(limits) as (connect, connections, application):
            _, writer = await connect()
            writer.transport.pause_reading()
            assert len(connections) == 1
            writer.write(GET.replace(b'quick', b'endless'))
            await application.until_begun(1)
            await until(lambda: not len(connections))

    asyncio.run(run())


def test_connections_of_a_proxy_have_no_limit_per_client():
    async def run():
        limits = replace(LIMITS, per_client=1)
        async with serving(limits, ['127.0.0.0/24']) as (connect, _, _):
            slow = GET.replace(b'quick', b'slow')
            readers = [(await connect(slow))[0] for _ in range(4)]
            assert [await status(r) for r in readers] == [200] * 4

    asyncio.run(run())


def test_one_ipv6_network_is_one_client():
    connections = Connections(proxies=['10.0.0.1'])
    client = connections.client_of
    assert client('2001:db8::1') == client('2001:db8::ffff:1')
    assert client('2001:db8:0:1::1') != client('2001:db8::1')
    assert client('::ffff:1.2.3.4') == client('1.2.3.4') == '1.2.3.4'
    assert client('10.0.0.1') is client('::ffff:10.0.0.1') is None


def test_the_number_of_connections_follows_the_limit_of_open_files(
    monkeypatch,
):
    limits = {}

    def set_limit(kind, values):
        limits['soft'] = values[0]

    monkeypatch.setattr(resource, 'setrlimit', set_limit)
    for hard in (64, 256, 1024, 10**6):
        monkeypatch.setattr(
            resource, 'getrlimit', lambda kind, hard=hard: (64, hard)
        )
        total, backlog = descriptor_budget(512)
        assert 1 <= total <= 512 and 1 <= backlog <= 128
        assert total + backlog < hard
    assert total == 512 and limits['soft'] == 65536


def test_failed_accepts_are_logged_once(caplog):
    handler = AcceptErrors()
    loop = asyncio.new_event_loop()
    context = dict(
        message='socket.accept() out of system resource',
        exception=OSError(24, 'Too many open files'),
    )
    logger = logging.getLogger('uvicorn.error')
    logger.addHandler(caplog.handler)
    try:
        with caplog.at_level(logging.ERROR, logger.name):
            for _ in range(5000):
                handler(loop, context)
    finally:
        logger.removeHandler(caplog.handler)
        loop.close()
    records = {id(record): record for record in caplog.records}
    (record,) = records.values()
    assert 'ulimit -n' in record.getMessage()
