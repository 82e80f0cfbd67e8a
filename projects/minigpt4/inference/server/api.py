# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The HTTP API: OpenAI's chat completions, answered by an engine.

A request passes (1) the door: key, places, size; (2) its body becomes turns,
images and settings; (3) the engine's worker answers, many requests at once;
(4) the text goes back, whole or as events. Who hangs up ends the answer.
"""

import asyncio
import contextlib
import hmac
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..worker import EngineWorker, QueueFull
from .completions import Completions
from .errors import (
    ApiError,
    json_response,
    tell_error,
    tell_fault,
    tell_missing,
)
from .image_sources import ImageSources
from .metrics import ServerMetrics
from .request_values import RequestLimits, shown

if TYPE_CHECKING:
    from fastapi import FastAPI

COMPLETIONS = '/v1/chat/completions'
_BODY_SECONDS = 120.0  # for a body to come
_BODIES_HELD = 4  # largest bodies that are in memory at once


class ChatApi:
    """The API of one model.

    Args:
        worker: What answers.
        name: The model's name for clients.
        sources: Where images may come from.
        limits: What a request may ask for.
        api_key: The key that clients have to send; None asks for none.

    Attributes:
        app: The FastAPI application.
        in_flight: Requests that were let in and are not answered yet.
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
    ) -> None:
        self.worker = worker
        self.model = worker.engine.model
        self.name = name
        self.sources = sources or ImageSources()
        self.limits = limits or RequestLimits()
        self.metrics = ServerMetrics()
        self.in_flight = 0
        self.draining = False
        self._key = None if api_key is None else api_key.encode()
        self._held = 0  # bytes of bodies in memory
        self._started = int(time.time())
        self.completions = Completions(self)
        self.app = self._build()

    @property
    def idle(self) -> bool:
        """Whether nothing is being answered, for anybody."""
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

    # the door

    def authorize(self, request) -> None:
        """Refuse who has not the key.

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
    def place(self) -> Iterator[None]:
        """A place among the requests that are answered or wait.

        Raises:
            ApiError: 503 where the server stops, 429 where none is free.
        """
        if self.draining:
            raise ApiError(
                503,
                'the server is stopping and takes no new requests; try '
                'again when it is back.',
                retry_after=5,
            )
        if not self.worker.alive:
            raise ApiError(
                503, 'the engine has ended; the server has to be restarted.'
            )
        places = self.worker.engine.slots + self.worker.max_waiting
        if self.in_flight >= places:
            raise self.full(str(QueueFull(self.in_flight, 2)), 2)
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1

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
            ApiError: 408, 413, 415, or 429 where memory for it is short.
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
                if self._held > _BODIES_HELD * self.limits.body:
                    raise self.full(
                        'the server is busy with other large requests; try '
                        'again in 2 seconds.',
                        2,
                    )

        try:
            await asyncio.wait_for(read(), _BODY_SECONDS)
        except asyncio.TimeoutError:
            raise ApiError(
                408,
                f'the body did not come within {_BODY_SECONDS:g} seconds.',
            ) from None
        finally:
            self._held -= taken
        return b''.join(chunks)

    def _too_long(self) -> ApiError:
        return ApiError(
            413,
            f'the body is longer than {self.limits.body:,} bytes; send '
            'smaller or fewer images.',
        )
