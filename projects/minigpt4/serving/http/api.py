# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The HTTP API: OpenAI's chat completions, answered by an engine.

A request passes (1) the checks of host, origin, key and size; (2) its body
becomes turns, images and settings; (3) the engine's worker answers, many
requests at once; (4) the text is sent, whole or as events. A client that
disconnects ends its answer.
"""

import asyncio
import contextlib
import hmac
import time
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ...generation.worker import EngineWorker, QueueFull
from ...images.sources import ImageSources
from .completions import Completions
from .errors import (
    ApiError,
    json_response,
    tell_error,
    tell_fault,
    tell_missing,
)
from .hosts import HostGuard, HostRules
from .metrics import ServerMetrics
from .request_values import RequestLimits, shown

if TYPE_CHECKING:
    from fastapi import FastAPI

COMPLETIONS = '/v1/chat/completions'
BODY_SECONDS = 60.0  # for a body to arrive
_BODIES_HELD = 4  # largest bodies that are in memory at once
_SMALL_BODY = 2**18  # bytes; refused for want of memory only above it


class Slot:
    """One of the requests that are answered or wait for the engine.

    Args:
        api: Where it is counted.
        client: Who asks.
    """

    def __init__(self, api: 'ChatApi', client: str) -> None:
        self._api = api
        self._client = client
        self._held = True
        api.slots_taken += 1
        api.clients[client] += 1

    def release(self) -> None:
        """Let another request have it; a second call does nothing."""
        if not self._held:
            return
        self._held = False
        self._api.slots_taken -= 1
        self._api.clients[self._client] -= 1
        if not self._api.clients[self._client]:
            del self._api.clients[self._client]


class ChatApi:
    """The API of one model.

    Args:
        worker: What answers.
        name: The model's name for clients.
        sources: Where images may come from.
        limits: What a request may ask for.
        api_key: The key that clients have to send; None asks for none.
        hosts: Which ``Host`` and ``Origin`` are accepted; by default IP
            addresses, localhost and pages of this server.
        body_seconds: The longest that a body may take to arrive.

    Attributes:
        app: The FastAPI application.
        in_flight: Requests that were accepted and are not answered yet.
        slots_taken: Of them, those that the engine answers or will answer;
            their bodies and images have arrived.
        clients: How many slots each client has taken.
        draining: Whether new requests are refused because the server stops.
        metrics: What was counted.
    """

    def __init__(
        self,
        worker: EngineWorker,
        name: str,
        sources: ImageSources | None = None,
        limits: RequestLimits | None = None,
        api_key: str | None = None,
        hosts: HostRules | None = None,
        body_seconds: float = BODY_SECONDS,
    ) -> None:
        self.worker = worker
        self.model = worker.engine.model
        self.name = name
        self.sources = sources or ImageSources()
        self.limits = limits or RequestLimits()
        self.metrics = ServerMetrics()
        self.hosts = hosts or HostRules()
        self.body_seconds = body_seconds
        self.in_flight = 0
        self.slots_taken = 0
        self.clients: Counter[str] = Counter()
        self.draining = False
        self._reading: set[asyncio.Task] = set()  # bodies that arrive
        self._key = None if api_key is None else api_key.encode()
        self._held = 0  # bytes of bodies in memory
        self._started = int(time.time())
        self.completions = Completions(self)
        self.app = self._build()

    @property
    def idle(self) -> bool:
        """Whether nothing is being answered."""
        worker = self.worker
        return not (self.in_flight or worker.running or worker.waiting)

    # the application

    def _build(self) -> 'FastAPI':
        from fastapi import FastAPI
        from starlette.exceptions import HTTPException
        from starlette.routing import Route

        app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
        app.router.routes.extend(
            [
                Route(COMPLETIONS, self.completions, methods=['POST']),
                Route('/v1/models', self._models, methods=['GET']),
                Route('/v1/models/{name:path}', self._model, methods=['GET']),
                Route('/health', self._health, methods=['GET']),
                Route('/metrics', self._metrics, methods=['GET']),
            ]
        )
        handlers: list[tuple[type[Exception], Any]] = [
            (ApiError, tell_error),
            (HTTPException, tell_missing),
            (Exception, tell_fault),
        ]
        for kind, handler in handlers:
            app.add_exception_handler(kind, handler)
        if self.hosts.origins:
            from starlette.middleware.cors import CORSMiddleware

            app.add_middleware(
                CORSMiddleware,
                allow_origins=sorted(self.hosts.origins),
                allow_methods=['GET', 'POST'],
                allow_headers=['*'],
                expose_headers=['Retry-After'],
            )
        app.add_middleware(HostGuard, rules=self.hosts)  # the outermost
        return app

    async def _models(self, request):
        self.authorize(request)
        return json_response(dict(object='list', data=[self._card()]))

    async def _model(self, request):
        self.authorize(request)
        self.check_name(request.path_params['name'])
        return json_response(self._card())

    def _card(self) -> dict:
        return dict(
            id=self.name,
            object='model',
            created=self._started,
            owned_by='minigpt4',
        )

    async def _health(self, request):
        status = 'stopping' if self.draining else 'ok'
        if not self.worker.alive:
            status = 'the engine has ended'
        state = dict(
            status=status,
            model=self.name,
            running=self.worker.running,
            waiting=self.worker.waiting,
        )
        return json_response(state, 200 if status == 'ok' else 503)

    async def _metrics(self, request):
        from starlette.responses import Response

        text = self.metrics.text(self.worker.running, self.worker.waiting)
        return Response(text, media_type='text/plain; version=0.0.4')

    # checks

    def authorize(self, request) -> None:
        """Refuse a request without the key.

        Raises:
            ApiError: 401.
        """
        if self._key is None:
            return
        scheme, _, key = request.headers.get('authorization', '').partition(
            ' '
        )
        given = key.strip().encode()
        if scheme.lower() != 'bearer' or not hmac.compare_digest(
            given, self._key
        ):
            raise ApiError(
                401,
                'the API key is missing or wrong; send the header '
                '"Authorization: Bearer KEY" with the key that the server '
                'was started with.',
                code='invalid_api_key',
            )

    def check_name(self, name: str | None) -> None:
        """Refuse another model's name.

        Raises:
            ApiError: 404.
        """
        if name not in (None, self.name):
            raise ApiError(
                404,
                f'there is no model {shown(name)} here; expected '
                f'{shown(self.name)}.',
                'model',
                'model_not_found',
            )

    @contextlib.contextmanager
    def accepted(self) -> Iterator[None]:
        """Count a request from its head to the end of its answer.

        Raises:
            ApiError: 503 where the server stops.
        """
        if self.draining:
            raise self._stopping()
        if not self.worker.alive:
            raise ApiError(
                503, 'the engine has ended; the server has to be restarted.'
            )
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1

    def check_slots(self, client: str) -> None:
        """Refuse a request for which no slot is free.

        Args:
            client: The address of the client.

        Raises:
            ApiError: 429.
        """
        if self.slots_taken >= self.worker.engine.slots + (
            self.worker.max_waiting
        ):
            raise self.full(str(QueueFull(self.slots_taken, 2)), 2)
        most = self.limits.client_requests
        if most and self.clients[client] >= most:
            raise self.full(
                f'{self.clients[client]} requests of {shown(client)} are '
                'being answered already; try again in 2 seconds.',
                2,
            )

    def slot(self, client: str) -> Slot:
        """Take a slot, when all of a request has arrived.

        Raises:
            ApiError: 429.
        """
        self.check_slots(client)
        return Slot(self, client)

    def cut_answers(self) -> int:
        """Cut off all answers, the web page's too; returns how many."""
        return max(self.worker.cancel_all(), self.in_flight)

    def stop_reading(self) -> None:
        """Refuse requests whose bodies have not arrived; the server stops."""
        for task in self._reading:
            task.cancel()

    @staticmethod
    def _stopping() -> ApiError:
        return ApiError(
            503,
            'the server is stopping and takes no new requests; try '
            'again when it is back.',
            retry_after=5,
        )

    @contextlib.contextmanager
    def holding(self, size: int) -> Iterator[None]:
        """Count bytes of a body that are in memory."""
        self._held += size
        try:
            yield
        finally:
            self._held -= size

    @staticmethod
    def full(message: str, retry_after: float) -> ApiError:
        """429."""
        return ApiError(
            429, message, code='queue_full', retry_after=retry_after
        )

    # from a body to a generation

    async def body(self, request) -> bytes:
        """Read a body, of limited size and in limited time.

        Raises:
            ApiError: 408, 413, 415, 429 where memory for it is short, or
                503 where the server stops.
        """
        kind = request.headers.get('content-type', '').partition(';')[0]
        if kind.strip().lower() != 'application/json':
            # also keeps web pages of other sites out: a browser asks first
            # before it sends them this type
            raise ApiError(
                415,
                'the content type is not JSON; send the header '
                '"Content-Type: application/json".',
            )
        encoding = request.headers.get('content-encoding', 'identity')
        if encoding.strip().lower() not in ('', 'identity'):
            raise ApiError(
                415,
                f'the body is compressed (Content-Encoding {shown(encoding)}'
                '); send it uncompressed.',
            )
        length = request.headers.get('content-length', '')
        if length.isdecimal() and int(length) > self.limits.body:
            raise self._too_long()
        chunks: list[bytes] = []
        taken = 0

        async def read() -> None:
            nonlocal taken
            async for chunk in request.stream():
                chunks.append(chunk)
                taken += len(chunk)
                self._held += len(chunk)
                if taken > self.limits.body:
                    raise self._too_long()
                if (
                    taken > _SMALL_BODY
                    and self._held > _BODIES_HELD * self.limits.body
                ):
                    raise self.full(
                        'the server is busy with other large requests; try '
                        'again in 2 seconds.',
                        2,
                    )

        task = asyncio.ensure_future(read())
        self._reading.add(task)
        try:
            await asyncio.wait({task}, timeout=self.body_seconds)
            if not task.done():
                raise ApiError(
                    408,
                    'the body did not arrive within '
                    f'{self.body_seconds:g} seconds.',
                )
            if task.cancelled():
                raise self._stopping()
            task.result()
        finally:
            self._reading.discard(task)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            self._held -= taken
        return b''.join(chunks)

    def _too_long(self) -> ApiError:
        return ApiError(
            413,
            f'the body is longer than {self.limits.body:,} bytes; send '
            'smaller or fewer images.',
        )
