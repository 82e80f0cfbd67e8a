# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Errors of the HTTP API, in OpenAI's format: always with the cause."""

import asyncio
import contextlib
import json
import math
import time
from typing import Any

from ...utils.errors import one_line
from .request_values import shown

_KINDS = {
    400: 'invalid_request_error',
    401: 'authentication_error',
    403: 'permission_error',
    404: 'not_found_error',
    429: 'rate_limit_error',
}
# seconds in which a refused client can send its whole body, and its next part
_LINGER, _NEXT = 20.0, 1.0


class ApiError(Exception):
    """An answer that is an error, in OpenAI's format.

    Args:
        status: Of HTTP.
        message: One sentence.
        param: The field that is at fault.
        code: OpenAI's word for it.
        retry_after: Seconds to wait before another try.
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
        self.headers = {}
        if retry_after is not None:
            self.headers['Retry-After'] = str(math.ceil(retry_after))
        if status == 401:
            self.headers['WWW-Authenticate'] = 'Bearer'
        kind = _KINDS.get(status) or (
            'server_error' if status >= 500 else 'invalid_request_error'
        )
        self.content = dict(
            error=dict(message=message, type=kind, param=param, code=code)
        )


def json_response(
    content: Any, status: int = 200, headers: dict | None = None
):
    """JSON in ASCII: whatever a text holds, it can be sent."""
    from starlette.responses import Response

    return Response(
        json.dumps(content),
        status,
        headers=headers,
        media_type='application/json',
    )


async def refuse(error: ApiError, scope, receive, send) -> None:
    """Answer with an error before the body was read."""
    await discard(receive)
    response = json_response(error.content, error.status, error.headers)
    await response(scope, receive, send)


async def discard(receive) -> None:
    """Read the rest of a body, so that its sender receives the refusal."""
    end = time.monotonic() + _LINGER
    with contextlib.suppress(asyncio.TimeoutError):
        while time.monotonic() < end:
            message = await asyncio.wait_for(receive(), _NEXT)
            if not message.get('more_body'):
                return


async def tell_error(request, error: ApiError):
    """What a handler refused."""
    return json_response(error.content, error.status, error.headers)


async def tell_missing(request, error):
    """A path or a method that is not there."""
    path = shown(request.url.path)
    told = ApiError(
        error.status_code,
        f'there is no {request.method} {path} here; expected POST to '
        '/v1/chat/completions, or GET of /v1/models, /health, /metrics.',
    )
    return json_response(told.content, error.status_code, error.headers)


async def tell_fault(request, error):
    """What nobody foresaw; the log has where it came from."""
    reason = f'{type(error).__name__}: {one_line(error)}'
    told = ApiError(500, f'the server has a fault ({reason}).')
    return json_response(told.content, 500)
