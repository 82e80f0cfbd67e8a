# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""A uvicorn server with limits on connections and an orderly stop."""

import asyncio
import signal
import socket
import time
from collections.abc import Collection
from dataclasses import replace
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from ...utils.signals import end_immediately
from .api import ChatApi
from .connections import (
    ConnectionGuard,
    ConnectionLimits,
    Connections,
    descriptor_budget,
    protocol_of,
)
from .logs import AcceptErrors, log_config

_CUT_SECONDS = 2.0  # to send clients the error of an answer that is cut off


class OrderlyServer(uvicorn.Server):
    """A uvicorn server that stops when all requests are answered.

    At the first signal (SIGINT, SIGTERM, SIGHUP) new requests get status 503
    and running answers are finished. At the second, or after
    ``drain_seconds``, running answers are cut off and their clients are sent
    an error. A third ends the process immediately.

    Args:
        config: uvicorn's configuration.
        api: The API that is served.
        connections: The open connections.
        drain_seconds: The maximum time to finish running answers.

    Attributes:
        greeting: Text that is printed when the server accepts requests.
        signum: The signal that stopped the server, or None.
        cut: The number of answers that were cut off.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        api: ChatApi,
        connections: Connections,
        drain_seconds: float,
    ) -> None:
        super().__init__(config)
        self.gate = api.gate
        self.connections = connections
        self.drain_seconds = drain_seconds
        self.greeting = ''
        self.signum: int | None = None
        self.cut = 0
        self._deadline = float('inf')
        self._announced = False

    async def startup(
        self, sockets: list[socket.socket] | None = None
    ) -> None:
        """Start to accept requests, and print the greeting."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(AcceptErrors())
        await super().startup(sockets=sockets)
        print(self.greeting, flush=True)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Handle a signal: drain, cut off, or end the process."""
        if self.signum is None:
            self.signum = sig
            self.gate.draining = True
            self._deadline = time.monotonic() + self.drain_seconds
        elif self._deadline:
            self._deadline = 0
        else:
            end_immediately(sig)

    async def on_tick(self, counter: int) -> bool:
        """Check ten times per second whether the server can stop."""
        if self.gate.draining and not self._announced:
            self._announced = True
            self._announce_stop()
            self.gate.refuse_incomplete()
        if time.monotonic() > self._deadline:
            self.cut += self.gate.cancel_answers()
            self._deadline = 0
            await self._wait_until_idle(_CUT_SECONDS)
            self.should_exit = True
        elif self.gate.draining and self.gate.idle:
            self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(
        self, sockets: list[socket.socket] | None = None
    ) -> None:
        """Close the connections of endless answers, then stop."""
        # the event streams of the web page
        self.connections.close_streams('/v1/')
        await super().shutdown(sockets=sockets)

    async def _wait_until_idle(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not self.gate.idle and time.monotonic() < end:
            await asyncio.sleep(0.05)

    def _announce_stop(self) -> None:
        if self.signum is None:
            return
        running = self.gate.in_flight or self.gate.worker.running
        print(
            f'{signal.Signals(self.signum).name}: no new requests; '
            f'{running} running answers have up to {self.drain_seconds:g} '
            'seconds.',
            flush=True,
        )


def make_server(
    api: ChatApi,
    drain_seconds: float,
    limits: ConnectionLimits | None = None,
    proxies: Collection[str] = (),
    log_level: str = 'info',
    **settings: Any,
) -> OrderlyServer:
    """Build a server for an API.

    Args:
        api: The API that is served.
        drain_seconds: The maximum time to finish running answers.
        limits: Limits on connections; their number is lowered to what the
            limit of open files allows.
        proxies: Addresses and networks of proxies whose ``X-Forwarded-For``
            and ``X-Forwarded-Proto`` are trusted.
        log_level: The level of uvicorn's loggers.
        settings: Further settings of ``uvicorn.Config``.
    """
    limits = limits or ConnectionLimits()
    total, backlog = descriptor_budget(limits.total)
    limits = replace(
        limits, total=total, per_client=min(limits.per_client, total)
    )
    connections = Connections(limits, proxies)
    app: Any = api.app
    if proxies:
        app = ProxyHeadersMiddleware(app, trusted_hosts=list(proxies))
    settings.setdefault('timeout_graceful_shutdown', 5)
    config = uvicorn.Config(
        ConnectionGuard(app, connections),
        http=protocol_of(connections),
        ws='none',
        lifespan='auto',  # the web page uses it
        interface='asgi3',
        server_header=False,
        proxy_headers=False,  # handled above, inside the connection guard
        backlog=backlog,
        timeout_keep_alive=max(1, int(limits.idle_seconds)),
        log_config=log_config(log_level.upper()),
        access_log=log_level.lower() in ('info', 'debug', 'trace'),
        **settings,
    )
    return OrderlyServer(config, api, connections, drain_seconds)


def install_hangup(server: OrderlyServer) -> None:
    """Stop a server at SIGHUP too, unless the process ignores SIGHUP."""
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, server.handle_exit)
