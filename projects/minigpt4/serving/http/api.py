# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The HTTP API of one model: routes, and the objects behind them.

A request passes (1) the checks of host and origin (``hosts.py``); (2) the
API key, the capacity and the limits of its body (``request_gate.py``). Then
(3) the body becomes turns, images and sampling parameters
(``parse_request.py``, ``image_loader.py``); (4) the engine's worker generates
answers of many requests at the same time; (5) the text is sent as one object
or as events (``completions.py``). A client that disconnects cancels its
answer.
"""

import time
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ...generation.worker import EngineWorker
from ...images.request_images import ImageSources
from .completions import Completions
from .errors import (
    ApiError,
    handle_api_error,
    handle_fault,
    handle_http_error,
    json_response,
)
from .hosts import HostGuard, HostRules
from .image_loader import ImageLoader
from .metrics import CONTENT_TYPE, ServerMetrics
from .parse_request import check_model
from .request_gate import BODY_SECONDS, RequestGate
from .request_limits import RequestLimits

COMPLETIONS = '/v1/chat/completions'


class ChatApi:
    """The HTTP API of one model.

    Args:
        worker: Runs the engine.
        name: The model's name for clients.
        sources: Reads the images of requests.
        limits: The limits of a request.
        api_key: The key that clients have to send; None for no key.
        hosts: The accepted ``Host`` and ``Origin`` headers; by default IP
            addresses, localhost and pages of this server.
        body_seconds: The maximum time for a body to arrive.

    Attributes:
        app: The FastAPI application.
        gate: Admits requests.
        metrics: Counts requests.
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
        self.hosts = hosts or HostRules()
        self.metrics = ServerMetrics()
        self.gate = RequestGate(
            worker, limits or RequestLimits(), api_key, body_seconds
        )
        completions = Completions(
            worker,
            name,
            self.gate,
            ImageLoader(sources or ImageSources(), self.model.image_size),
            self.metrics,
        )
        self._started = int(time.time())
        self.app = self._build(completions)

    def _build(self, completions: Completions) -> FastAPI:
        """Build the application."""
        app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
        app.router.routes.extend(
            [
                Route(COMPLETIONS, completions, methods=['POST']),
                Route('/v1/models', self._models, methods=['GET']),
                Route('/v1/models/{name:path}', self._model, methods=['GET']),
                Route('/health', self._health, methods=['GET']),
                Route('/metrics', self._metrics, methods=['GET']),
            ]
        )
        handlers: list[tuple[type[Exception], Any]] = [
            (ApiError, handle_api_error),
            (HTTPException, handle_http_error),
            (Exception, handle_fault),
        ]
        for error_type, handler in handlers:
            app.add_exception_handler(error_type, handler)
        if self.hosts.origins:
            app.add_middleware(
                CORSMiddleware,
                allow_origins=sorted(self.hosts.origins),
                allow_methods=['GET', 'POST'],
                allow_headers=['*'],
                expose_headers=['Retry-After'],
            )
        app.add_middleware(HostGuard, rules=self.hosts)  # the outermost
        return app

    async def _models(self, request: Request) -> Response:
        self.gate.require_key(request)
        return json_response(dict(object='list', data=[self._model_card()]))

    async def _model(self, request: Request) -> Response:
        self.gate.require_key(request)
        check_model(request.path_params['name'], self.name)
        return json_response(self._model_card())

    def _model_card(self) -> dict[str, Any]:
        return dict(
            id=self.name,
            object='model',
            created=self._started,
            owned_by='minigpt4',
        )

    async def _health(self, request: Request) -> Response:
        status = 'stopping' if self.gate.draining else 'ok'
        if not self.worker.alive:
            status = 'the engine has ended'
        state = dict(
            status=status,
            model=self.name,
            running=self.worker.running,
            waiting=self.worker.waiting,
        )
        return json_response(state, 200 if status == 'ok' else 503)

    async def _metrics(self, request: Request) -> Response:
        text = self.metrics.exposition(
            self.worker.running, self.worker.waiting
        )
        return Response(text, media_type=CONTENT_TYPE)
