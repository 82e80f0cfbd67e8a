# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Errors of the HTTP API in OpenAI's format, and values in their messages."""

import asyncio
import contextlib
import json
import math
import time
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ...utils.errors import one_line
from ...utils.short_text import shorten

_TYPES = {
    400: 'invalid_request_error',
    401: 'authentication_error',
    403: 'permission_error',
    404: 'not_found_error',
    429: 'rate_limit_error',
}
# seconds in which the body of a refused request may arrive, in all and
# between two messages
_DRAIN_SECONDS, _DRAIN_PAUSE = 20.0, 1.0


class ApiError(Exception):
    """An error that is sent to the client in OpenAI's format.

    Args:
        status: The HTTP status.
        message: One sentence: what was found, expected, and what to do.
        param: The field of the request that is wrong.
        code: OpenAI's code of the error.
        retry_after: Seconds after which the client may try again.

    Attributes:
        headers: Further headers of the response.
        content: The body of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code
        self.headers: dict[str, str] = {}
        if retry_after is not None:
            self.headers['Retry-After'] = str(math.ceil(retry_after))
        if status == 401:
            self.headers['WWW-Authenticate'] = 'Bearer'
        kind = _TYPES.get(status) or (
            'server_error' if status >= 500 else 'invalid_request_error'
        )
        self.content = dict(
            error=dict(message=message, type=kind, param=param, code=code)
        )


class BadRequest(ApiError, ValueError):
    """A request with an invalid or unsupported field (status 400)."""

    def __init__(
        self, message: str, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(400, message, param, code)


def kind_of(value: Any) -> str:
    """Name the JSON type of a value for an error message."""
    kinds: dict[type, str] = {
        type(None): 'missing',
        dict: 'an object',
        list: 'a list' if value else 'an empty list',
        str: 'a text',
        bool: 'true or false',
    }
    return kinds.get(type(value), 'a number')


def format_value(value: Any) -> str:
    """Format a value of a request for an error message: short, in ASCII."""
    if isinstance(value, (dict, list)):
        return kind_of(value)
    if isinstance(value, int) and abs(value) > 2**64:
        return 'a huge number'
    if isinstance(value, str):
        value = value[:60]
    return json.dumps(value)


def json_response(
    content: Any, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    """Build a JSON response in ASCII.

    Starlette's JSONResponse writes UTF-8, which fails for lone surrogates.
    """
    return Response(
        json.dumps(content),
        status,
        headers=headers,
        media_type='application/json',
    )


def error_response(error: ApiError) -> Response:
    """Build the response of an error."""
    return json_response(error.content, error.status, error.headers)


async def refuse(
    error: ApiError, scope: Scope, receive: Receive, send: Send
) -> None:
    """Send an error before the body of the request was read."""
    await drain_body(receive)
    await error_response(error)(scope, receive, send)


async def drain_body(receive: Receive) -> None:
    """Read the rest of a body so that its client can read the error."""
    end = time.monotonic() + _DRAIN_SECONDS
    with contextlib.suppress(asyncio.TimeoutError):
        while time.monotonic() < end:
            message = await asyncio.wait_for(receive(), _DRAIN_PAUSE)
            if not message.get('more_body'):
                return


async def handle_api_error(request: Request, error: ApiError) -> Response:
    """Respond to an :class:`ApiError` of an endpoint."""
    return error_response(error)


async def handle_http_error(
    request: Request, error: HTTPException
) -> Response:
    """Respond to an unknown path or method."""
    return error_response(
        ApiError(
            error.status_code,
            f'there is no {request.method} '
            f'{format_value(request.url.path)} here; expected POST to '
            '/v1/chat/completions, or GET of /v1/models, /health, /metrics.',
        )
    )


async def handle_fault(request: Request, error: Exception) -> Response:
    """Respond to an unexpected exception; its traceback is in the log."""
    cause = f'{type(error).__name__}: {one_line(error)}'
    return error_response(ApiError(500, f'the server has a fault ({cause}).'))


def describe_exception(error: Exception) -> str:
    """The text of an exception that may quote a request, short, in ASCII."""
    return shorten(str(error), 100)
