# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""A uvicorn server with limits on connections and an orderly stop."""

import asyncio
import signal
import time
from collections.abc import Collection
from dataclasses import replace
from typing import Any

from ...utils.signals import end_at_once
from .api import ChatApi
from .connections import (
    ConnectionGuard,
    ConnectionLimits,
    Connections,
    descriptor_budget,
    protocol_of,
)

_CUT_SECONDS = 2.0  # for clients to be sent that their answers were cut


def make_server(
    api: ChatApi,
    drain_seconds: float,
    limits: ConnectionLimits | None = None,
    proxies: Collection[str] = (),
    **settings,
):
    """A uvicorn server that stops in order.

    At the first signal (SIGINT, SIGTERM, SIGHUP) new requests get status 503
    and running answers are finished. At the second, or after
    ``drain_seconds``, running answers are cut off and their clients are sent
    an error. A third ends the process at once.

    Args:
        api: What is served.
        drain_seconds: How long running answers may take to finish.
        limits: Of connections; their number is lowered to what the limit of
            open files allows.
        proxies: Addresses and networks of proxies whose ``X-Forwarded-For``
            and ``X-Forwarded-Proto`` are believed.
        settings: Further settings of ``uvicorn.Config``.

    Returns:
        The server. ``signum`` is the signal that stopped it, or None;
        ``cut`` is the number of answers that were cut off; ``connections``
        are those that are open.
    """
    import uvicorn
    from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

    from .logs import AcceptErrors, log_config

    limits = limits or ConnectionLimits()
    total, backlog = descriptor_budget(limits.total)
    limits = replace(
        limits, total=total, per_client=min(limits.per_client, total)
    )
    connections = Connections(limits, proxies)

    class Server(uvicorn.Server):
        """Stops accepting only once everything is answered."""

        deadline = float('inf')
        greeting = ''
        signum: int | None = None
        cut = 0
        connections: Connections
        _announced = False

        async def startup(self, sockets=None) -> None:
            loop = asyncio.get_running_loop()
            loop.set_exception_handler(AcceptErrors())
            await super().startup(sockets=sockets)
            print(self.greeting, flush=True)

        def handle_exit(self, sig, frame) -> None:
            if self.signum is None:
                self.signum = sig
                api.draining = True
                self.deadline = time.monotonic() + drain_seconds
            elif self.deadline:
                self.deadline = 0
            else:
                end_at_once(sig)

        async def on_tick(self, counter: int) -> bool:
            if api.draining and not self._announced:
                self._announced = True
                self._announce()
                api.stop_reading()
            if time.monotonic() > self.deadline:
                self.cut += api.cut_answers()
                self.deadline = 0
                await self._wait_until_idle(_CUT_SECONDS)
                self.should_exit = True
            elif api.draining and api.idle:
                self.should_exit = True
            return await super().on_tick(counter)

        async def shutdown(self, sockets=None) -> None:
            # answers without an end: the web page's events
            connections.close_streams('/v1/')
            await super().shutdown(sockets=sockets)

        async def _wait_until_idle(self, seconds: float) -> None:
            end = time.monotonic() + seconds
            while not api.idle and time.monotonic() < end:
                await asyncio.sleep(0.05)

        def _announce(self) -> None:
            if self.signum is None:
                return
            running = api.in_flight or api.worker.running
            print(
                f'{signal.Signals(self.signum).name}: no new requests; '
                f'{running} running answers have up to {drain_seconds:g} '
                'seconds.',
                flush=True,
            )

    app: Any = api.app
    if proxies:
        app = ProxyHeadersMiddleware(app, trusted_hosts=list(proxies))
    settings.setdefault('timeout_graceful_shutdown', 5)
    level = settings.pop('log_level', 'info')
    config = uvicorn.Config(
        ConnectionGuard(app, connections),
        http=protocol_of(connections),
        ws='none',
        lifespan='auto',  # the web page starts with it
        interface='asgi3',
        server_header=False,
        proxy_headers=False,  # done above, after the count of connections
        backlog=backlog,
        timeout_keep_alive=max(1, int(limits.idle_seconds)),
        log_config=log_config(level.upper()),
        access_log=level.lower() in ('info', 'debug', 'trace'),
        **settings,
    )
    server = Server(config)
    server.connections = connections
    return server


def install_hangup(server) -> None:
    """Stop a server at SIGHUP too, unless it was started to ignore it."""
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, server.handle_exit)
