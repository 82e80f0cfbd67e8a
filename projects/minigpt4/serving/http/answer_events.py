# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""An answer while it is written: its pieces, and the events with them."""

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

from ...generation.request import GenerationRequest
from ...utils.errors import one_line
from .chat_request import ChatRequest
from .errors import ApiError


async def send_events(
    generation: GenerationRequest,
    first: str,
    pieces: AsyncIterator[str],
    about: dict,
    request: ChatRequest,
    send,
) -> None:
    """The answer as server-sent events."""
    if generation.finished:
        check_answer(generation)  # as long as it can have a status of its own
    await send(
        dict(
            type='http.response.start',
            status=200,
            headers=[
                (b'content-type', b'text/event-stream; charset=utf-8'),
                (b'cache-control', b'no-cache'),
                (b'x-accel-buffering', b'no'),  # nginx would collect
            ],
        )
    )

    async def event(content: Any) -> None:
        await _send_data(send, json.dumps(content))

    async def chunk(delta: dict, reason: str | None = None) -> None:
        choice = dict(
            index=0, delta=delta, logprobs=None, finish_reason=reason
        )
        content = dict(
            **about, object='chat.completion.chunk', choices=[choice]
        )
        if request.include_usage:
            content['usage'] = None
        await event(content)

    await chunk(dict(role='assistant', content=first))
    async for piece in pieces:
        await chunk(dict(content=piece))
    try:
        check_answer(generation)
    except ApiError as error:
        await event(error.content)
    else:
        await chunk({}, generation.finish_reason)
        if request.include_usage:
            await event(
                dict(
                    **about,
                    object='chat.completion.chunk',
                    choices=[],
                    usage=usage_of(generation),
                )
            )
        await _send_data(send, '[DONE]')
    await send(dict(type='http.response.body', body=b''))


async def end_events(send, error: ApiError) -> None:
    """Send an error as the last event."""
    await _send_data(send, json.dumps(error.content))
    await send(dict(type='http.response.body', body=b''))


async def _send_data(send, data: str) -> None:
    await send(
        dict(
            type='http.response.body',
            body=f'data: {data}\n\n'.encode(),
            more_body=True,
        )
    )


async def pieces_of(generation: GenerationRequest) -> AsyncIterator[str]:
    """The text of an answer as the thread of the engine gives it.

    What comes while the last piece is being sent is the next one.
    """
    loop = asyncio.get_running_loop()
    pending: deque[str | None] = deque()
    news = asyncio.Event()

    def add(piece: str | None) -> None:
        pending.append(piece)
        if len(pending) == 1:  # else the loop has been woken
            with contextlib.suppress(RuntimeError):  # it has ended
                loop.call_soon_threadsafe(news.set)

    generation.listen(add)
    piece: str | None = ''
    while piece is not None:
        await news.wait()
        news.clear()
        text = ''
        while pending:
            piece = pending.popleft()
            text += piece or ''
        if text:
            yield text


def check_answer(generation: GenerationRequest) -> None:
    """Refuse to pass a broken answer off as a whole one.

    Raises:
        ApiError: 500 or 503.
    """
    if generation.error is not None:
        error = generation.error
        raise ApiError(
            500,
            f'the answer broke off ({type(error).__name__}: '
            f'{one_line(error)}).',
        )
    if generation.finish_reason == 'cancelled':
        raise ApiError(
            503,
            'the server stopped before the answer was whole; ask again when '
            'it is back.',
            retry_after=5,
        )


def usage_of(generation: GenerationRequest) -> dict[str, Any]:
    """The numbers of tokens, as the API gives them."""
    written = len(generation.token_ids)
    return dict(
        prompt_tokens=generation.prompt_tokens,
        completion_tokens=written,
        total_tokens=generation.prompt_tokens + written,
        prompt_tokens_details=dict(cached_tokens=generation.reused_tokens),
    )
