# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Limits on connections: total number, number per client, and time.

A connection is *idle* until the headers of a request are complete, *reading*
until its body is complete, and *answering* until the answer has been sent.
An idle or reading connection may be closed to make room for a new one; an
answering connection may not.
"""

import asyncio
import enum
import ipaddress
import json
import math
import os
import time
from collections.abc import Collection
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from ...utils.open_files import raise_open_files
from .errors import ApiError

_CHECK_SECONDS = 0.5  # between two checks of the deadlines
_REFUSAL_SECONDS = 2.0  # to send the error of a body that is too slow
_FLUSH_SECONDS = 5.0  # to send what is buffered when a connection is closed


@dataclass(frozen=True)
class ConnectionLimits:
    """Limits on connections.

    Attributes:
        total: The maximum number of open connections.
        per_client: The maximum number of connections of one client (an IPv4
            address or an IPv6 /64).
        header_seconds: The maximum time from the start of a connection, or
            the first byte of a later request, to the end of the headers.
        idle_seconds: The maximum time from the end of an answer to the next
            request; longer than the 60 seconds after which proxies close a
            connection.
        body_seconds: The maximum time from the end of the headers to the end
            of the body.
        send_seconds: The maximum time in which a client reads nothing while
            an answer waits to be sent.
    """

    total: int = 512
    per_client: int = 128
    header_seconds: float = 20.0
    idle_seconds: float = 65.0
    body_seconds: float = 60.0
    send_seconds: float = 30.0


class State(enum.Enum):
    """The state of a connection."""

    IDLE = 'idle'
    READING = 'reading'
    ANSWERING = 'answering'
    CLOSING = 'closing'


class Connection:
    """One open connection.

    Args:
        transport: Its transport.
        client: The client that it is counted for; None: not counted.
        deadline: The time at which it is closed unless a request arrives.

    Attributes:
        state: Its state.
        keep_alive: Whether it waits for the next request after an answer.
        path: The path of the request that is being answered.
        scope: The ASGI scope of the latest request. The application of the
            request before may still run: uvicorn starts the next request
            when the response is complete.
        send_deadline: The time at which it is closed unless the client
            reads.
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
        self.keep_alive = False
        self.path = ''
        self.scope: Scope | None = None
        self.send_deadline = math.inf


class Connections:
    """All open connections of a server; used from its event loop alone.

    Args:
        limits: Limits on connections.
        proxies: Addresses and networks of proxies, whose connections are
            not counted per client.

    Attributes:
        refused: The number of refused connections.
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
        """Add a new connection, and close another one if there is no room.

        Returns:
            Whether it was added.
        """
        peer = _peer(transport)
        client = self.client_of(peer[0])
        while True:
            same = [c for c in self._open.values() if c.client == client]
            if client is not None and len(same) >= self.limits.per_client:
                candidates = same
            elif len(self._open) >= self.limits.total:
                candidates = self._of_busiest_client()
            else:
                break
            closable = [
                connection
                for connection in candidates
                if connection.state in (State.IDLE, State.READING)
            ]
            if not closable:
                self.refused += 1
                return False
            self._close(
                min(closable, key=lambda c: (c.state.value, c.deadline))
            )
        self._open[peer] = Connection(
            transport, client, time.monotonic() + self.limits.header_seconds
        )
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(
                _CHECK_SECONDS, self._check
            )
        return True

    def remove(self, transport: asyncio.Transport) -> None:
        """Remove a closed connection."""
        peer = _peer(transport)
        found = self._open.get(peer)
        if found is not None and found.transport is transport:
            del self._open[peer]

    def received(self, transport: asyncio.Transport) -> None:
        """Start the deadline of a later request at its first byte."""
        connection = self._open.get(_peer(transport))
        if connection is not None and connection.keep_alive:
            connection.keep_alive = False
            connection.deadline = time.monotonic() + self.limits.header_seconds

    def of(self, scope: Scope) -> Connection | None:
        """Find the connection of a request by its client's address."""
        return self._open.get(tuple((scope.get('client') or ())[:2]))

    def close_streams(self, prefix: str) -> None:
        """Close answering connections except those of the API.

        Args:
            prefix: The prefix of the API's paths.
        """
        for connection in list(self._open.values()):
            if (
                connection.state is State.ANSWERING
                and not connection.path.startswith(prefix)
            ):
                self._close(connection)

    def client_of(self, host: str) -> str | None:
        """The client that an address is counted for, or None."""
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

    def _of_busiest_client(self) -> list[Connection]:
        """The closable connections of the client that has most of them."""
        groups: dict[str | None, list[Connection]] = {}
        for connection in self._open.values():
            if connection.state in (State.IDLE, State.READING):
                groups.setdefault(connection.client, []).append(connection)
        return max(groups.values(), key=len, default=[])

    def _close(self, connection: Connection) -> None:
        """Close a connection immediately; buffered data is lost."""
        connection.transport.abort()
        self.remove(connection.transport)

    def _check(self) -> None:
        """Close connections past their deadline; calls itself again."""
        self._timer = None
        now = time.monotonic()
        for connection in list(self._open.values()):
            if now > connection.send_deadline:
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
                _CHECK_SECONDS, self._check
            )


class ConnectionGuard:
    """Updates the state of connections, as an ASGI middleware.

    It is the outermost application, because it needs the addresses of the
    connections themselves.

    Args:
        app: The wrapped application.
        connections: The open connections.
    """

    def __init__(self, app: ASGIApp, connections: Connections) -> None:
        self.app = app
        self.connections = connections

    async def __call__(
        self, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Pass a request on and update the state of its connection."""
        connection = (
            self.connections.of(scope) if scope['type'] == 'http' else None
        )
        if connection is None:
            await self.app(scope, receive, send)
            return
        limits = self.connections.limits

        def start_answer() -> None:
            connection.state = State.ANSWERING
            connection.deadline = math.inf

        async def tracked_receive() -> Message:
            message = await receive()
            if (
                connection.scope is scope
                and connection.state is State.READING
                and not message.get('more_body')
            ):
                start_answer()
            return message

        async def tracked_send(message: Message) -> None:
            connection.send_deadline = time.monotonic() + limits.send_seconds
            try:
                await send(message)
            finally:
                connection.send_deadline = math.inf

        connection.scope = scope
        connection.path = scope['path']
        connection.keep_alive = False
        names = {name.lower() for name, _ in scope['headers']}
        if names & {b'content-length', b'transfer-encoding'}:
            connection.state = State.READING
            # before this deadline the application sends status 408
            connection.deadline = (
                time.monotonic() + limits.body_seconds + _REFUSAL_SECONDS
            )
        else:
            start_answer()
        try:
            await self.app(scope, tracked_receive, tracked_send)
        finally:
            if connection.scope is scope:
                self._end_request(connection)

    def _end_request(self, connection: Connection) -> None:
        """Start the deadline of a connection without a request."""
        connection.path = ''
        now = time.monotonic()
        if connection.state is State.READING:
            connection.deadline = now  # its body was not read
        if connection.state is State.ANSWERING:
            connection.keep_alive = True
            connection.deadline = now + self.connections.limits.idle_seconds
        if connection.state is not State.CLOSING:
            connection.state = State.IDLE


def protocol_of(connections: Connections) -> type[asyncio.Protocol]:
    """Build a class of uvicorn's HTTP protocol that counts connections."""

    class CountedProtocol(H11Protocol):
        """One connection; refused with status 503 if there is no room."""

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


def descriptor_budget(requested: int) -> tuple[int, int]:
    """Raise the limit of open files, and compute what it allows.

    Args:
        requested: The maximum number of connections that the operator set.

    Returns:
        The number of connections that the limit allows, and the backlog:
        connections that wait to be accepted, all of which the event loop
        accepts before they are counted.
    """
    limit = raise_open_files()
    try:
        used = len(os.listdir('/proc/self/fd'))
    except OSError:  # not on Linux
        used = 64
    free = max(limit - used, 16)
    # 9/16 for connections, 2/16 for the backlog, 5/16 for files and downloads
    return max(min(requested, free * 9 // 16), 1), max(min(128, free // 8), 1)


def _peer(transport: asyncio.Transport) -> tuple:
    """The address and port of the client of a connection."""
    peer = transport.get_extra_info('peername') or ('', id(transport))
    return (str(peer[0]), peer[1])


def _refusal() -> bytes:
    """Build the response to a connection for which there is no room."""
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
