# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Send an answer as server-sent events while the engine generates it.

Own ASGI messages rather than Starlette's StreamingResponse or sse-starlette:
both watch for disconnects themselves, but here one watcher covers parsing,
waiting and streaming alike; sse-starlette also replaces uvicorn's signal
handling, and with it the orderly stop.
"""

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

from starlette.types import Send

from ...generation.request import GenerationRequest
from ...utils.errors import one_line
from .errors import ApiError

_HEADERS = [
    (b'content-type', b'text/event-stream; charset=utf-8'),
    (b'cache-control', b'no-cache'),
    (b'x-accel-buffering', b'no'),  # nginx would buffer the events
]


async def send_events(
    generation: GenerationRequest,
    first: str,
    pieces: AsyncIterator[str],
    envelope: dict[str, Any],
    include_usage: bool,
    send: Send,
) -> None:
    """Send an answer as server-sent events.

    Args:
        generation: The request to the engine.
        first: The first piece of the text.
        pieces: The further pieces.
        envelope: Fields of every event.
        include_usage: Whether the last event has the usage.
        send: ASGI's ``send``.

    Raises:
        ApiError: The answer failed before anything was sent.
    """
    if generation.finished:
        check_answer(generation)  # while the response can have a status
    await send(dict(type='http.response.start', status=200, headers=_HEADERS))

    async def send_chunk(
        delta: dict[str, str], finish_reason: str | None = None
    ) -> None:
        choice = dict(
            index=0, delta=delta, logprobs=None, finish_reason=finish_reason
        )
        content = dict(
            **envelope, object='chat.completion.chunk', choices=[choice]
        )
        if include_usage:
            content['usage'] = None
        await _send_data(send, json.dumps(content))

    await send_chunk(dict(role='assistant', content=first))
    async for piece in pieces:
        await send_chunk(dict(content=piece))
    try:
        check_answer(generation)
    except ApiError as error:
        await send_error_event(send, error)
        return
    await send_chunk({}, generation.finish_reason)
    if include_usage:
        usage = dict(
            **envelope,
            object='chat.completion.chunk',
            choices=[],
            usage=usage_of(generation),
        )
        await _send_data(send, json.dumps(usage))
    await _send_data(send, '[DONE]')
    await _send_end(send)


async def send_error_event(send: Send, error: ApiError) -> None:
    """Send an error as the last event of a stream."""
    await _send_data(send, json.dumps(error.content))
    await _send_end(send)


async def _send_data(send: Send, data: str) -> None:
    """Send one event."""
    await send(
        dict(
            type='http.response.body',
            body=f'data: {data}\n\n'.encode(),
            more_body=True,
        )
    )


async def _send_end(send: Send) -> None:
    """End the response."""
    await send(dict(type='http.response.body', body=b''))


async def text_pieces(generation: GenerationRequest) -> AsyncIterator[str]:
    """Yield the text of an answer as the engine's thread generates it.

    Text that is generated while a piece is being sent is joined to the next
    piece.
    """
    loop = asyncio.get_running_loop()
    pending: deque[str | None] = deque()
    arrived = asyncio.Event()

    def add(piece: str | None) -> None:
        pending.append(piece)
        if len(pending) == 1:  # otherwise the loop is notified already
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(arrived.set)

    generation.listen(add)
    piece: str | None = ''
    while piece is not None:
        await arrived.wait()
        arrived.clear()
        text = ''
        while pending:
            piece = pending.popleft()
            text += piece or ''
        if text:
            yield text


def check_answer(generation: GenerationRequest) -> None:
    """Check that a finished answer is complete.

    Raises:
        ApiError: 500 if the engine failed, 503 if the server stopped.
    """
    if generation.error is not None:
        error = generation.error
        raise ApiError(
            500,
            f'the answer failed ({type(error).__name__}: {one_line(error)}).',
        )
    if generation.finish_reason == 'cancelled':
        raise ApiError(
            503,
            'the server stopped before the answer was complete; ask again '
            'when it is back.',
            retry_after=5,
        )


def usage_of(generation: GenerationRequest) -> dict[str, Any]:
    """Count the tokens of a request in OpenAI's format."""
    completion_tokens = len(generation.token_ids)
    return dict(
        prompt_tokens=generation.prompt_tokens,
        completion_tokens=completion_tokens,
        total_tokens=generation.prompt_tokens + completion_tokens,
        prompt_tokens_details=dict(cached_tokens=generation.reused_tokens),
    )
