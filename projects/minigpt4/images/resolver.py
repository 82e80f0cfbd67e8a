# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Looking up host names; a slow name server delays no other request."""

import asyncio
import socket
import threading
from collections import Counter

from ..utils.threads import DaemonThreads, TooManyCalls

MOST_LOOKUPS = 128  # at once
MOST_PER_DOMAIN = 8  # of them, for names that end in the same two labels


class Resolver:
    """Looks up names in threads of its own, with a limit for each domain."""

    def __init__(self) -> None:
        self._threads = DaemonThreads('minigpt4-resolver', MOST_LOOKUPS)
        self._domains: Counter[str] = Counter()  # look-ups that run
        self._lock = threading.Lock()

    async def addresses(
        self, host: str, port: int, seconds: float
    ) -> list[str]:
        """The addresses of a host, each once.

        Args:
            host: A name, or an address in any spelling.
            port: Where a connection shall go.
            seconds: The longest that a look-up may take.

        Raises:
            OSError: The name is not known, or was not found in time, or too
                many are being looked up.
            UnicodeError: It is not a host name.
        """
        try:  # an address needs no thread
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

    async def _look_up(self, host: str, port: int) -> list:
        """Look a name up in a thread."""
        domain = '.'.join(host.rstrip('.').split('.')[-2:])
        with self._lock:
            if self._domains[domain] >= MOST_PER_DOMAIN:
                raise TooManyCalls(
                    f'too many names of {domain} are being looked up'
                )
            self._domains[domain] += 1

        def work() -> list:
            try:
                return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            finally:
                self._ended(domain)

        if self._threads.running >= self._threads.most:
            self._ended(domain)
            raise TooManyCalls('too many names are being looked up')
        return await self._threads.run(work)

    def _ended(self, domain: str) -> None:
        with self._lock:
            self._domains[domain] -= 1
            if not self._domains[domain]:
                del self._domains[domain]
