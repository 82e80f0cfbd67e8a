# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The endpoint ``/v1/chat/completions``: from a request to its answer."""

import asyncio
import contextlib
import threading
import time
import uuid
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor

from starlette.requests import ClientDisconnect, Request
from starlette.types import Message, Receive, Scope, Send
from torch import Tensor

from ...chat.prompt import ChatPrompt, ContextLengthError, build_prompt
from ...generation.request import GenerationRequest
from ...generation.sampling_params import SamplingParams
from ...generation.worker import EngineWorker, QueueFull
from ...utils.errors import one_line
from .answer_events import (
    answer_pieces,
    check_answer,
    send_error_event,
    send_events,
    usage_of,
)
from .choices import submit_choices
from .errors import ApiError, drain_body, json_response
from .image_loader import ImageLoader
from .logprob_entries import LogprobEntries
from .metrics import ServerMetrics
from .parse_request import ChatRequest, check_model, parse_request
from .request_gate import Admission, RequestGate

_ERROR_SECONDS = 5.0  # for a client to read the last event of a stream
_LARGE_BODY = 2**16  # bytes; a larger body is parsed in a thread
_SCOPE: Scope = {'type': 'http'}


class Completions:
    """The endpoint ``/v1/chat/completions``, as an ASGI application.

    Args:
        worker: Runs the engine.
        name: The model's name for clients.
        gate: Admits requests.
        images: Loads the images of requests.
        metrics: Counts requests.
    """

    def __init__(
        self,
        worker: EngineWorker,
        name: str,
        gate: RequestGate,
        images: ImageLoader,
        metrics: ServerMetrics,
    ) -> None:
        self.worker = worker
        self.model = worker.engine.model
        self.name = name
        self.gate = gate
        self.images = images
        self.metrics = metrics
        self.entries = LogprobEntries(self.model.decoder.tokenizer)
        self._parsers = ThreadPoolExecutor(2, 'minigpt4-parsers')
        self._tokenizer_lock = threading.Lock()

    async def __call__(
        self, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Handle one request."""
        status, more_body = 500, True

        async def tracked_send(message: Message) -> None:
            nonlocal status
            if message['type'] == 'http.response.start':
                status = message['status']
            await send(message)

        async def tracked_receive() -> Message:
            nonlocal more_body
            message = await receive()
            more_body = message.get('more_body', False)
            return message

        request = Request(scope, tracked_receive)
        client = request.client.host if request.client else ''
        try:
            self.gate.require_key(request)
            with self.gate.track_request():
                body = await self.gate.read_body(request)
                self.gate.check_capacity(client)
                answer = self._answer(body, client, tracked_send)
                del body
                await self._run_while_connected(answer, receive)
        except ClientDisconnect:
            status = 499
        except ApiError as error:
            if status == 200:  # the stream has begun
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(
                        send_error_event(send, error), _ERROR_SECONDS
                    )
                return
            status = error.status
            if more_body:
                await drain_body(tracked_receive)
            raise
        finally:
            self.metrics.requests.labels(status).inc()

    async def _run_while_connected(
        self, answer: Coroutine[object, object, None], receive: Receive
    ) -> None:
        """Run until the client disconnects or the time is over.

        Raises:
            ApiError: 503 if it takes too long; also what ``answer`` raises.
            ClientDisconnect: The client has disconnected.
        """
        seconds = self.gate.limits.seconds
        task = asyncio.ensure_future(answer)
        disconnect = asyncio.ensure_future(_wait_for_disconnect(receive))
        try:
            await asyncio.wait(
                {task, disconnect},
                timeout=seconds,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if task.done():
                task.result()
            elif disconnect.done():
                raise ClientDisconnect
            else:
                raise ApiError(
                    503, f'the answer took longer than {seconds:g} seconds.'
                )
        finally:
            task.cancel()
            disconnect.cancel()
            await asyncio.gather(task, disconnect, return_exceptions=True)

    async def _answer(self, body: bytes, client: str, send: Send) -> None:
        """Answer a request whose body has arrived."""
        start = time.monotonic()
        with self.gate.track_bytes(len(body)):
            request = await self._parse(body)
            del body
            images = await self.images.load(request.images)
            request.images.clear()  # data URLs are large
        admission = self.gate.admit(client, request.choices)
        try:
            generations, prompt = await self._submit(request, images)
        except BaseException:
            admission.release()
            raise
        with self._cancel_at_exit(generations, admission):
            await self._send_answer(request, generations, prompt, start, send)

    async def _parse(self, body: bytes) -> ChatRequest:
        """Parse a body; a large one in a thread.

        Raises:
            ApiError: 400 or 404.
        """

        def parse() -> ChatRequest:
            request = parse_request(
                body, self.model.template, self.model.prompt, self.gate.limits
            )
            check_model(request.model, self.name)
            return request

        if len(body) <= _LARGE_BODY:
            return parse()
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._parsers, parse)

    async def _submit(
        self, request: ChatRequest, images: list[Tensor]
    ) -> tuple[list[GenerationRequest], ChatPrompt]:
        """Build the prompt and submit it to the engine for each choice.

        Raises:
            ApiError: 400, 429 or 503.
        """
        loop = asyncio.get_running_loop()
        prompt = await loop.run_in_executor(
            self._parsers, self._build_prompt, request, images
        )
        try:
            generations = submit_choices(
                self.worker, prompt, request.settings, request.choices
            )
        except QueueFull as error:
            raise self.gate.too_busy_error(
                str(error), error.retry_after
            ) from error
        except ValueError as error:
            raise ApiError(400, one_line(error)) from error
        except RuntimeError as error:
            raise ApiError(503, one_line(error), retry_after=5) from error
        self.metrics.images.inc(len(images))
        return generations, prompt

    def _build_prompt(
        self, request: ChatRequest, images: list[Tensor]
    ) -> ChatPrompt:
        """Render and tokenize a conversation.

        Raises:
            ApiError: 400.
        """
        try:
            sampling = SamplingParams.of(
                self.model.generation, request.settings
            )
            with self._tokenizer_lock:
                prompt = build_prompt(
                    self.model,
                    request.turns,
                    images,
                    request.system,
                    max_new_tokens=sampling.max_new_tokens,
                )
        except ContextLengthError as error:
            raise ApiError(
                400, one_line(error), 'messages', 'context_length_exceeded'
            ) from error
        except ValueError as error:
            raise ApiError(400, one_line(error)) from error
        if prompt.num_dropped and not request.truncate:
            raise ApiError(
                400,
                f'the conversation and an answer of {sampling.max_new_tokens} '
                'tokens do not fit into the context; send fewer messages, or '
                '"truncation": "auto" to drop the oldest.',
                'messages',
                'context_length_exceeded',
            )
        return prompt

    @contextlib.contextmanager
    def _cancel_at_exit(
        self, generations: list[GenerationRequest], admission: Admission
    ) -> Iterator[None]:
        """Cancel answers that are unfinished when their request ends.

        The admission of a choice is released when the engine has finished
        it, even if the client reads slowly.
        """
        loop = asyncio.get_running_loop()

        def release(piece: str | None) -> None:
            if piece is None:
                with contextlib.suppress(RuntimeError):  # the loop has ended
                    loop.call_soon_threadsafe(admission.release, 1)

        for generation in generations:
            generation.listen(release)
        try:
            yield
        finally:
            admission.release()
            for generation in generations:
                if not generation.finished:
                    generation.cancel()

    async def _send_answer(
        self,
        request: ChatRequest,
        generations: list[GenerationRequest],
        prompt: ChatPrompt,
        start: float,
        send: Send,
    ) -> None:
        """Send the text that the engine generates."""
        envelope = dict(
            id=f'chatcmpl-{uuid.uuid4().hex}',
            created=int(time.time()),
            model=self.name,
        )
        if prompt.notice:
            envelope['notice'] = prompt.notice
        pieces = answer_pieces(generations)
        first = await anext(pieces)
        self.metrics.first_token.observe(time.monotonic() - start)
        if request.stream:
            await send_events(
                generations,
                first,
                pieces,
                envelope,
                request.include_usage,
                self.entries,
                send,
            )
        else:
            async for piece in pieces:
                if piece.ended:
                    check_answer(generations[piece.choice])
            await self._send_completion(generations, envelope, send)
        self.metrics.answer.observe(time.monotonic() - start)
        usage, tokens = usage_of(generations), self.metrics.tokens
        tokens.labels('prompt').inc(usage['prompt_tokens'])
        tokens.labels('cached').inc(generations[0].reused_tokens)
        tokens.labels('completion').inc(usage['completion_tokens'])

    async def _send_completion(
        self,
        generations: list[GenerationRequest],
        envelope: dict[str, object],
        send: Send,
    ) -> None:
        """Send finished answers as one JSON object.

        Raises:
            ApiError: One of them failed.
        """
        choices = []
        for index, generation in enumerate(generations):
            check_answer(generation)
            tokens = generation.text_tokens
            choices.append(
                dict(
                    index=index,
                    message=dict(role='assistant', content=generation.text),
                    logprobs=self.entries.write(generation, 0, tokens),
                    finish_reason=generation.finish_reason,
                )
            )
        response = json_response(
            dict(
                **envelope,
                object='chat.completion',
                choices=choices,
                usage=usage_of(generations),
            )
        )
        await response(_SCOPE, _never_receive, send)


async def _never_receive() -> Message:
    """The receiver of a response, which reads no messages."""
    raise RuntimeError('a response reads no messages')


async def _wait_for_disconnect(receive: Receive) -> None:
    """Return when the client has disconnected."""
    while (await receive())['type'] != 'http.disconnect':
        pass
