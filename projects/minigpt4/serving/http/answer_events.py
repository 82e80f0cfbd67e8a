# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Send answers as server-sent events while the engine generates them.

Own ASGI messages rather than Starlette's StreamingResponse or sse-starlette:
both watch for disconnects themselves, but here one watcher covers parsing,
waiting and streaming alike; sse-starlette also replaces uvicorn's signal
handling, and with it the orderly stop.
"""

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import Any, NamedTuple

from starlette.types import Send

from ...generation.request import GenerationRequest
from ...utils.errors import one_line
from .errors import ApiError
from .logprob_entries import LogprobEntries

_HEADERS = [
    (b'content-type', b'text/event-stream; charset=utf-8'),
    (b'cache-control', b'no-cache'),
    (b'x-accel-buffering', b'no'),  # nginx would buffer the events
]


class AnswerPiece(NamedTuple):
    """New text of one choice.

    Attributes:
        choice: The index of the choice.
        text: The text; may be empty at the end.
        tokens: How many tokens of the answer have text so far; counted only
            with log-probabilities.
        ended: Whether the answer has ended.
    """

    choice: int
    text: str
    tokens: int
    ended: bool


async def send_events(
    generations: Sequence[GenerationRequest],
    first: AnswerPiece,
    pieces: AsyncIterator[AnswerPiece],
    envelope: dict[str, Any],
    include_usage: bool,
    entries: LogprobEntries,
    send: Send,
) -> None:
    """Send answers as server-sent events, each piece when it arrives.

    Args:
        generations: The request to the engine of each choice.
        first: The first piece.
        pieces: The further pieces.
        envelope: Fields of every event.
        include_usage: Whether the last event has the usage.
        entries: Writes log-probabilities.
        send: ASGI's ``send``.

    Raises:
        ApiError: An answer failed before anything was sent.
    """
    for generation in generations:
        if generation.finished:
            check_answer(generation)  # while the response can have a status
    await send(dict(type='http.response.start', status=200, headers=_HEADERS))
    sent: dict[int, int] = {}  # tokens by choice, once it has begun

    async def send_chunk(
        piece: AnswerPiece,
        delta: dict[str, str],
        finish_reason: str | None = None,
    ) -> None:
        choice, start = piece.choice, sent.get(piece.choice, 0)
        logprobs = entries.write(generations[choice], start, piece.tokens)
        if finish_reason and start == piece.tokens:
            logprobs = None
        sent[choice] = piece.tokens
        choices = [
            dict(
                index=choice,
                delta=delta,
                logprobs=logprobs,
                finish_reason=finish_reason,
            )
        ]
        content = dict(
            **envelope, object='chat.completion.chunk', choices=choices
        )
        if include_usage:
            content['usage'] = None
        await _send_data(send, json.dumps(content))

    async for piece in _chain(first, pieces):
        if piece.choice not in sent:
            await send_chunk(piece, dict(role='assistant', content=piece.text))
        elif piece.text:
            await send_chunk(piece, dict(content=piece.text))
        if piece.ended:
            generation = generations[piece.choice]
            try:
                check_answer(generation)
            except ApiError as error:
                await send_error_event(send, error)
                return
            await send_chunk(piece, {}, generation.finish_reason)
    if include_usage:
        usage = dict(
            **envelope,
            object='chat.completion.chunk',
            choices=[],
            usage=usage_of(generations),
        )
        await _send_data(send, json.dumps(usage))
    await _send_data(send, '[DONE]')
    await _send_end(send)


async def _chain(
    first: AnswerPiece, pieces: AsyncIterator[AnswerPiece]
) -> AsyncIterator[AnswerPiece]:
    yield first
    async for piece in pieces:
        yield piece


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


async def answer_pieces(
    generations: Sequence[GenerationRequest],
) -> AsyncIterator[AnswerPiece]:
    """Yield the text of answers as the engine's thread generates it.

    Text that is generated while a piece is being sent is joined to the next
    piece of its choice. The last piece of each choice has ended.

    Args:
        generations: The request to the engine of each choice. Choices may
            have the same request.
    """
    loop = asyncio.get_running_loop()
    pending: deque[AnswerPiece] = deque()
    arrived = asyncio.Event()
    notified = False  # whether the loop will look at what is pending

    def listen(choice: int, generation: GenerationRequest) -> None:
        def add(text: str | None) -> None:
            nonlocal notified
            pending.append(
                AnswerPiece(
                    choice, text or '', generation.text_tokens, text is None
                )
            )
            if not notified:
                notified = True
                with contextlib.suppress(RuntimeError):  # the loop has ended
                    loop.call_soon_threadsafe(arrived.set)

        generation.listen(add)

    for choice, generation in enumerate(generations):
        listen(choice, generation)
    running = len(generations)
    while running:
        await arrived.wait()
        arrived.clear()
        notified = False  # before the first look
        joined: dict[int, AnswerPiece] = {}
        while pending:
            piece = pending.popleft()
            before = joined.get(piece.choice)
            if before is not None:
                piece = piece._replace(text=before.text + piece.text)
            joined[piece.choice] = piece
        for choice in sorted(joined):
            running -= joined[choice].ended
            yield joined[choice]


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


def usage_of(generations: Sequence[GenerationRequest]) -> dict[str, Any]:
    """Count the tokens of a request in OpenAI's format.

    The prompt counts once, and the tokens of every choice.

    Args:
        generations: The request to the engine of each choice.
    """
    first = generations[0]
    completion_tokens = sum(
        len(generation.token_ids) for generation in generations
    )
    return dict(
        prompt_tokens=first.prompt_tokens,
        completion_tokens=completion_tokens,
        total_tokens=first.prompt_tokens + completion_tokens,
        prompt_tokens_details=dict(cached_tokens=first.reused_tokens),
    )
