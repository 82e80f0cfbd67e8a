# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Admission of requests: API key, capacity, and memory of their bodies."""

import asyncio
import contextlib
import hmac
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from starlette.requests import Request

from ...generation.worker import EngineWorker, QueueFull
from .errors import ApiError, format_value
from .request_limits import RequestLimits

BODY_SECONDS = 60.0  # for a body to arrive
_MAX_LARGEST_BODIES = 4  # bodies of the maximum size in memory
_SMALL_BODY = 2**18  # bytes; smaller bodies are read in any case


class Admission:
    """The share of one request in the capacity of the engine.

    Args:
        gate: The gate that counts it.
        client: The address of the client.
        choices: The number of answers; each counts as a request.
    """

    def __init__(
        self, gate: 'RequestGate', client: str, choices: int = 1
    ) -> None:
        self._gate = gate
        self._client = client
        self._held = choices
        gate.admitted += choices
        gate.clients[client] += choices

    def release(self, choices: int | None = None) -> None:
        """Return capacity; without effect if all of it is returned.

        Args:
            choices: The number of answers that ended; None for all.
        """
        number = self._held if choices is None else min(choices, self._held)
        self._held -= number
        self._gate.admitted -= number
        self._gate.clients[self._client] -= number
        if not self._gate.clients[self._client]:
            del self._gate.clients[self._client]


class RequestGate:
    """Admits or refuses requests; used from the server's event loop alone.

    Args:
        worker: Runs the engine.
        limits: The limits of a request.
        api_key: The key that clients have to send; None for no key.
        body_seconds: The maximum time for a body to arrive.

    Attributes:
        in_flight: Requests from their head to the end of their answer.
        admitted: Requests among them that run or wait for the engine; their
            bodies and images have arrived. One with several choices counts
            as often.
        clients: Admitted requests by client.
        body_bytes: Bytes of bodies in memory.
        draining: Whether new requests are refused because the server stops.
    """

    def __init__(
        self,
        worker: EngineWorker,
        limits: RequestLimits,
        api_key: str | None = None,
        body_seconds: float = BODY_SECONDS,
    ) -> None:
        self.worker = worker
        capacity = worker.engine.slots + worker.max_waiting
        if limits.client_requests:
            capacity = min(capacity, limits.client_requests)
        # no request may be one that can never be admitted
        limits = replace(limits, choices=min(limits.choices, capacity))
        self.limits = limits
        self.body_seconds = body_seconds
        self.in_flight = 0
        self.admitted = 0
        self.clients: Counter[str] = Counter()
        self.body_bytes = 0
        self.draining = False
        self._key = None if api_key is None else api_key.encode()
        self._reads: set[asyncio.Task[None]] = set()  # bodies that arrive

    @property
    def idle(self) -> bool:
        """Whether no request is in flight, the web page's included."""
        worker = self.worker
        return not (self.in_flight or worker.running or worker.waiting)

    def require_key(self, request: Request) -> None:
        """Refuse a request without the API key.

        Raises:
            ApiError: 401.
        """
        if self._key is None:
            return
        header = request.headers.get('authorization', '')
        scheme, _, key = header.partition(' ')
        correct = hmac.compare_digest(key.strip().encode(), self._key)
        if scheme.lower() != 'bearer' or not correct:
            raise ApiError(
                401,
                'the API key is missing or wrong; send the header '
                '"Authorization: Bearer KEY" with the key that the server '
                'was started with.',
                code='invalid_api_key',
            )

    @contextlib.contextmanager
    def track_request(self) -> Iterator[None]:
        """Count a request from its head to the end of its answer.

        Raises:
            ApiError: 503 if the server stops or the engine has ended.
        """
        if self.draining:
            raise _stopping_error()
        if not self.worker.alive:
            raise ApiError(503, 'the engine has ended; restart the server.')
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1

    def check_capacity(self, client: str, choices: int = 1) -> None:
        """Refuse a request that cannot be admitted.

        Args:
            client: The address of the client.
            choices: The number of answers.

        Raises:
            ApiError: 429.
        """
        worker = self.worker
        capacity = worker.engine.slots + worker.max_waiting
        if self.admitted + choices > capacity:
            raise self.too_busy_error(str(QueueFull(self.admitted, 2)), 2)
        limit = self.limits.client_requests
        if limit and self.clients[client] + choices > limit:
            raise self.too_busy_error(
                f'{self.clients[client]} requests of {format_value(client)} '
                'are running already; try again in 2 seconds.',
                2,
            )

    def admit(self, client: str, choices: int = 1) -> Admission:
        """Admit a request whose body and images have arrived.

        Args:
            client: The address of the client.
            choices: The number of answers; each counts as a request.

        Raises:
            ApiError: 429.
        """
        self.check_capacity(client, choices)
        return Admission(self, client, choices)

    @staticmethod
    def too_busy_error(message: str, retry_after: float) -> ApiError:
        """Build the error of a request that has to come later (429)."""
        return ApiError(
            429, message, code='queue_full', retry_after=retry_after
        )

    def cancel_answers(self) -> int:
        """Cancel all answers, the web page's included; returns how many."""
        return max(self.worker.cancel_all(), self.in_flight)

    def refuse_incomplete(self) -> None:
        """Refuse requests whose body has not arrived; the server stops."""
        for task in self._reads:
            task.cancel()

    @contextlib.contextmanager
    def track_bytes(self, size: int) -> Iterator[None]:
        """Count bytes of a body while they are in memory."""
        self.body_bytes += size
        try:
            yield
        finally:
            self.body_bytes -= size

    async def read_body(self, request: Request) -> bytes:
        """Read a JSON body, of limited size and in limited time.

        Raises:
            ApiError: 408, 413, 415, 429 if other bodies take the memory, or
                503 if the server stops.
        """
        _check_body_headers(request)
        length = request.headers.get('content-length', '')
        if length.isdecimal() and int(length) > self.limits.body:
            raise self._too_long()
        body = bytearray()
        read = asyncio.ensure_future(self._receive(request, body))
        self._reads.add(read)
        try:
            await asyncio.wait({read}, timeout=self.body_seconds)
            if not read.done():
                raise ApiError(
                    408,
                    'the body did not arrive within '
                    f'{self.body_seconds:g} seconds.',
                )
            if read.cancelled():
                raise _stopping_error()
            read.result()
        finally:
            self._reads.discard(read)
            read.cancel()
            await asyncio.gather(read, return_exceptions=True)
            self.body_bytes -= len(body)
        return bytes(body)

    async def _receive(self, request: Request, body: bytearray) -> None:
        """Append a body as it arrives."""
        budget = _MAX_LARGEST_BODIES * self.limits.body
        async for chunk in request.stream():
            body += chunk
            self.body_bytes += len(chunk)
            if len(body) > self.limits.body:
                raise self._too_long()
            if len(body) > _SMALL_BODY and self.body_bytes > budget:
                raise self.too_busy_error(
                    'the server is busy with other large requests; try '
                    'again in 2 seconds.',
                    2,
                )

    def _too_long(self) -> ApiError:
        return ApiError(
            413,
            f'the body is longer than {self.limits.body:,} bytes; send '
            'smaller or fewer images.',
        )


def _check_body_headers(request: Request) -> None:
    """Refuse a body that is not uncompressed JSON.

    Raises:
        ApiError: 415.
    """
    kind = request.headers.get('content-type', '').partition(';')[0]
    if kind.strip().lower() != 'application/json':
        # also refuses web pages of other sites: a browser sends this type
        # only after a preflight request
        raise ApiError(
            415,
            'the content type is not JSON; send the header '
            '"Content-Type: application/json".',
        )
    encoding = request.headers.get('content-encoding', 'identity')
    if encoding.strip().lower() not in ('', 'identity'):
        raise ApiError(
            415,
            'the body is compressed (Content-Encoding '
            f'{format_value(encoding)}); send it uncompressed.',
        )


def _stopping_error() -> ApiError:
    return ApiError(
        503,
        'the server is stopping and takes no new requests; try again when '
        'it is back.',
        retry_after=5,
    )
