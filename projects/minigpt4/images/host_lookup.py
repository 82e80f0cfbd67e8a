# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Look up host names; a slow name server delays no other request."""

import asyncio
import socket
import threading
from collections import Counter
from typing import Any

from ..utils.threads import DaemonThreads, TooManyCallsError

MAX_LOOKUPS = 128  # concurrent
MAX_PER_DOMAIN = 8  # of them, for names with the same last two labels


class Resolver:
    """Looks up host names in threads, with a limit for each domain."""

    def __init__(self) -> None:
        self._threads = DaemonThreads('minigpt4-resolver', MAX_LOOKUPS)
        self._running: Counter[str] = Counter()  # look-ups by domain
        self._lock = threading.Lock()

    async def addresses(
        self, host: str, port: int, seconds: float
    ) -> list[str]:
        """Look up the distinct addresses of a host.

        Args:
            host: A name, or an IP address in any notation.
            port: The port of the connection.
            seconds: The maximum time of a look-up.

        Raises:
            OSError: The name is unknown or was not found in time, or too
                many look-ups are running.
            UnicodeError: It is not a host name.
        """
        try:  # an IP address needs no thread
            found = socket.getaddrinfo(
                host,
                port,
                type=socket.SOCK_STREAM,
                flags=socket.AI_NUMERICHOST,
            )
        except socket.gaierror:
            try:
                found = await asyncio.wait_for(
                    self._look_up(host, port), seconds
                )
            except asyncio.TimeoutError:
                raise OSError(
                    f'no name server answered within {seconds:g} seconds'
                ) from None
        return list(dict.fromkeys(str(entry[4][0]) for entry in found))

    async def _look_up(self, host: str, port: int) -> list[Any]:
        """Look up a name in a thread."""
        domain = '.'.join(host.rstrip('.').split('.')[-2:])
        with self._lock:
            if self._running[domain] >= MAX_PER_DOMAIN:
                raise TooManyCallsError(
                    f'too many names of {domain} are being looked up'
                )
            self._running[domain] += 1

        def look_up() -> list[Any]:
            try:
                return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            finally:
                self._release(domain)

        if self._threads.running >= self._threads.max_calls:
            self._release(domain)
            raise TooManyCallsError('too many names are being looked up')
        return await self._threads.run(look_up)

    def _release(self, domain: str) -> None:
        with self._lock:
            self._running[domain] -= 1
            if not self._running[domain]:
                del self._running[domain]
