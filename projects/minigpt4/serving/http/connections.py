# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Limits on connections: their number, in all and per client, and their time.

A connection is *idle* until the head of a request is complete, *reading*
until its body is complete, and *answering* until the answer has been sent.
One that is idle or reading may be closed to make room for a new one; one
that is answering may not.
"""

import asyncio
import enum
import ipaddress
import math
import os
import resource
import time
from collections.abc import Collection
from dataclasses import dataclass

from .errors import ApiError

_TICK = 0.5  # seconds between two looks at the deadlines
_REFUSAL_SECONDS = 2.0  # for the answer to a body that is too slow
_FLUSH_SECONDS = 5.0  # to send what is buffered when a connection is closed
_MOST_DESCRIPTORS = 65536


@dataclass(frozen=True)
class ConnectionLimits:
    """What connections may take.

    Attributes:
        total: The most open connections.
        per_client: The most of one client (an IPv4 address or an IPv6 /64).
        header_seconds: From the start of a connection, or the first byte of
            a later request, to the last byte of the request's head.
        idle_seconds: From the end of an answer to the next request; longer
            than the 60 seconds after which proxies close a connection.
        body_seconds: From there to the last byte of its body.
        send_seconds: The longest that a client may read nothing while an
            answer waits to be sent.
    """

    total: int = 512
    per_client: int = 128
    header_seconds: float = 20.0
    idle_seconds: float = 65.0
    body_seconds: float = 60.0
    send_seconds: float = 30.0


class State(enum.Enum):
    """What a connection is waiting for."""

    IDLE = 'idle'
    READING = 'reading'
    ANSWERING = 'answering'
    CLOSING = 'closing'


class Connection:
    """One open connection.

    Args:
        transport: Its transport.
        client: Who is counted for it; None is not counted.
        deadline: When it is closed unless a request comes.

    Attributes:
        state: What it is waiting for.
        path: Of the request that is being answered.
        sending_until: When it is closed unless the client reads.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        client: str | None,
        deadline: float,
    ) -> None:
        self.transport = transport
        self.client = client
        self.deadline = deadline
        self.state = State.IDLE
        self.between = False  # after an answer, before the next request
        self.path = ''
        self.sending_until = math.inf


class Connections:
    """All open connections of a server; used from its event loop alone.

    Args:
        limits: What they may take.
        proxies: Addresses and networks of proxies, whose connections are
            not counted per client.
    """

    def __init__(
        self,
        limits: ConnectionLimits | None = None,
        proxies: Collection[str] = (),
    ) -> None:
        self.limits = limits or ConnectionLimits()
        self.proxies = [ipaddress.ip_network(text) for text in proxies]
        self.refused = 0
        self._open: dict[tuple, Connection] = {}  # by peer address
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._open)

    def add(self, transport: asyncio.Transport) -> bool:
        """Count a new connection; room is made for it if need be.

        Returns:
            Whether it may stay.
        """
        peer = _peer(transport)
        client = self.client_of(peer[0])
        while True:
            same = [c for c in self._open.values() if c.client == client]
            if client is not None and len(same) >= self.limits.per_client:
                full = same
            elif len(self._open) >= self.limits.total:
                full = self._of_busiest()
            else:
                break
            waiting = [
                connection
                for connection in full
                if connection.state in (State.IDLE, State.READING)
            ]
            if not waiting:
                self.refused += 1
                return False
            self._close(
                min(waiting, key=lambda c: (c.state.value, c.deadline))
            )
        self._open[peer] = Connection(
            transport, client, time.monotonic() + self.limits.header_seconds
        )
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(
                _TICK, self._check
            )
        return True

    def remove(self, transport: asyncio.Transport) -> None:
        """Count a connection no more."""
        peer = _peer(transport)
        found = self._open.get(peer)
        if found is not None and found.transport is transport:
            del self._open[peer]

    def received(self, transport: asyncio.Transport) -> None:
        """Note the first byte of a request after another."""
        connection = self._open.get(_peer(transport))
        if connection is not None and connection.between:
            connection.between = False
            connection.deadline = time.monotonic() + self.limits.header_seconds

    def of(self, scope) -> Connection | None:
        """The connection of a request, by the address of its client."""
        return self._open.get(tuple((scope.get('client') or ())[:2]))

    def close_streams(self, prefix: str) -> None:
        """Close the connections whose answers do not end by themselves.

        Args:
            prefix: Paths of these answers begin otherwise.
        """
        for connection in list(self._open.values()):
            if (
                connection.state is State.ANSWERING
                and not connection.path.startswith(prefix)
            ):
                self._close(connection)

    def client_of(self, host: str) -> str | None:
        """Who is counted for an address."""
        try:
            address = ipaddress.ip_address(host.partition('%')[0])
        except ValueError:
            return host
        inner = getattr(address, 'ipv4_mapped', None)
        address = inner or address
        if any(address in network for network in self.proxies):
            return None
        if address.version == 6:
            return str(ipaddress.ip_network((int(address) >> 64 << 64, 64)))
        return str(address)

    def _of_busiest(self) -> list[Connection]:
        """Those of the client that has most of what may be closed."""
        groups: dict[str | None, list[Connection]] = {}
        for connection in self._open.values():
            if connection.state in (State.IDLE, State.READING):
                groups.setdefault(connection.client, []).append(connection)
        return max(groups.values(), key=len, default=[])

    def _close(self, connection: Connection) -> None:
        """Close at once, whatever waits to be sent."""
        connection.transport.abort()
        self.remove(connection.transport)

    def _check(self) -> None:
        """Close what has waited for too long; called again and again."""
        self._timer = None
        now = time.monotonic()
        for connection in list(self._open.values()):
            if now > connection.sending_until:
                self._close(connection)
            elif now > connection.deadline:
                if connection.state is State.CLOSING:
                    self._close(connection)
                else:
                    connection.state = State.CLOSING
                    connection.deadline = now + _FLUSH_SECONDS
                    connection.transport.close()
        if self._open:
            self._timer = asyncio.get_running_loop().call_later(
                _TICK, self._check
            )


class ConnectionGuard:
    """Follows requests for :class:`Connections`, as an ASGI middleware.

    It has to see the addresses of the connections themselves, so it is the
    outermost application.

    Args:
        app: The application that it wraps.
        connections: The open connections.
    """

    def __init__(self, app, connections: Connections) -> None:
        self.app = app
        self.connections = connections

    async def __call__(self, scope, receive, send) -> None:
        """Pass a request on and note how far it is."""
        connection = (
            self.connections.of(scope) if scope['type'] == 'http' else None
        )
        if connection is None:
            await self.app(scope, receive, send)
            return
        limits = self.connections.limits

        def answering() -> None:
            connection.state = State.ANSWERING
            connection.deadline = math.inf

        async def receive_noted():
            message = await receive()
            if connection.state is State.READING and not message.get(
                'more_body'
            ):
                answering()
            return message

        async def send_noted(message) -> None:
            connection.sending_until = time.monotonic() + limits.send_seconds
            try:
                await send(message)
            finally:
                connection.sending_until = math.inf

        connection.path = scope['path']
        connection.between = False
        names = {name.lower() for name, _ in scope['headers']}
        if names & {b'content-length', b'transfer-encoding'}:
            connection.state = State.READING
            # the application refuses a slow body with status 408 before
            connection.deadline = (
                time.monotonic() + limits.body_seconds + _REFUSAL_SECONDS
            )
        else:
            answering()
        try:
            await self.app(scope, receive_noted, send_noted)
        finally:
            connection.path = ''
            now = time.monotonic()
            if connection.state is State.READING:
                connection.deadline = now  # refused before it was complete
            if connection.state is State.ANSWERING:
                connection.between = True
                connection.deadline = now + limits.idle_seconds
            if connection.state is not State.CLOSING:
                connection.state = State.IDLE


def protocol_of(connections: Connections) -> type[asyncio.Protocol]:
    """Uvicorn's HTTP protocol, with its connections counted."""
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class CountedProtocol(H11Protocol):
        """One connection; refused with status 503 where there is no room."""

        _transport: asyncio.Transport | None = None
        _refused = False

        def connection_made(  # type: ignore[override]
            self, transport: asyncio.Transport
        ) -> None:
            self._transport = transport
            self._refused = not connections.add(transport)
            if self._refused:
                transport.write(_REFUSAL)
                transport.close()
            else:
                super().connection_made(transport)

        def data_received(self, data: bytes) -> None:
            if not self._refused and self._transport is not None:
                connections.received(self._transport)
                super().data_received(data)

        def connection_lost(self, exc: Exception | None) -> None:
            if not self._refused and self._transport is not None:
                connections.remove(self._transport)
                super().connection_lost(exc)

    return CountedProtocol


def descriptor_budget(wanted: int) -> tuple[int, int]:
    """How many connections fit into the limit of open files.

    The limit is raised first as far as the system allows without a
    privilege.

    Args:
        wanted: Connections that the operator wants.

    Returns:
        The connections that fit, and how many may wait to be accepted (the
        event loop accepts all of them before it looks at their number).
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST_DESCRIPTORS
    raised = most if hard == resource.RLIM_INFINITY else min(hard, most)
    if raised > soft >= 0:
        resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
        soft = raised
    try:
        used = len(os.listdir('/proc/self/fd'))
    except OSError:  # not on Linux
        used = 64
    free = max(soft - used, 16)
    # of 16 parts: 9 for connections, 2 to accept, 5 for files and fetching
    return max(min(wanted, free * 9 // 16), 1), max(min(128, free // 8), 1)


def _peer(transport: asyncio.Transport) -> tuple:
    """The address and port of a connection's other end."""
    peer = transport.get_extra_info('peername') or ('', id(transport))
    return (str(peer[0]), peer[1])


def _refusal() -> bytes:
    import json

    error = ApiError(
        503,
        'the server has too many open connections; try again in 5 seconds.',
        code='too_many_connections',
    )
    body = json.dumps(error.content).encode()
    return (
        b'HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json'
        b'\r\nRetry-After: 5\r\nConnection: close\r\nContent-Length: '
        + str(len(body)).encode()
        + b'\r\n\r\n'
        + body
    )


_REFUSAL = _refusal()
