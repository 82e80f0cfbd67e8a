# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The endpoint ``/v1/chat/completions``: a request becomes an answer."""

import asyncio
import contextlib
import hashlib
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from torch import Tensor

from ...chat.prompt import ChatPrompt, ContextLengthError, build_prompt
from ...generation.request import GenerationRequest
from ...generation.sampling import SamplingParams
from ...generation.worker import QueueFull
from ...images.fetch import ImageError
from ...images.read import to_tensor
from ...utils.errors import one_line
from .answer_events import check_answer, end_events, send_events, usage_of
from .answer_events import pieces_of as _pieces
from .chat_request import ChatRequest, parse_request
from .errors import ApiError, discard, json_response
from .request_values import BadRequest

if TYPE_CHECKING:
    from .api import ChatApi, Slot

_PICTURES_KEPT = 128
_LINGER = 5.0  # seconds for a client to read why its answer ended
_LARGE = 2**16  # bytes of a body that is parsed outside of the event loop
_SCOPE = dict(type='http')


class Completions:
    """The endpoint ``/v1/chat/completions``, as an ASGI application."""

    def __init__(self, api: 'ChatApi') -> None:
        self.api = api
        self.model = api.model
        self._pictures: OrderedDict[bytes, Tensor] = OrderedDict()
        # few at once: a large picture takes much memory while it is decoded
        self._readers = ThreadPoolExecutor(2, 'minigpt4-images')
        self._parsers = ThreadPoolExecutor(2, 'minigpt4-parsers')
        self._tokenizer = threading.Lock()

    async def __call__(self, scope, receive, send) -> None:
        """Take one request."""
        from starlette.requests import ClientDisconnect, Request

        api, status = self.api, 500

        async def counted(message) -> None:
            nonlocal status
            if message['type'] == 'http.response.start':
                status = message['status']
            await send(message)

        more = True  # of the body is to come

        async def next_message() -> dict:
            nonlocal more
            message = await receive()
            more = message.get('more_body', False)
            return message

        request = Request(scope, next_message)
        try:
            api.authorize(request)
            client = request.client.host if request.client else ''
            with api.accepted():
                body = await api.body(request)
                api.check_slots(client)
                work = self._respond(body, client, counted)
                del body
                await self._while_connected(work, receive)
        except ClientDisconnect:
            status = 499
        except ApiError as error:
            if status == 200:  # the events have begun; this is the last
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(end_events(send, error), _LINGER)
                return
            status = error.status
            if more:
                await discard(next_message)
            raise
        finally:
            api.metrics.requests[status] += 1

    async def _while_connected(self, work, receive) -> None:
        """Do it while the client is connected, and no longer than allowed.

        Raises:
            ApiError: 503 where it took too long; also what the work raises.
            ClientDisconnect: The client has left.
        """
        from starlette.requests import ClientDisconnect

        seconds = self.api.limits.seconds
        task = asyncio.ensure_future(work)
        gone = asyncio.ensure_future(_disconnected(receive))
        try:
            await asyncio.wait(
                {task, gone},
                timeout=seconds,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if task.done():
                task.result()
            elif gone.done():
                raise ClientDisconnect
            else:
                raise ApiError(
                    503, f'the answer took longer than {seconds:g} seconds.'
                )
        finally:
            for each in (task, gone):
                each.cancel()
            await asyncio.gather(task, gone, return_exceptions=True)

    async def _respond(self, body: bytes, client: str, send) -> None:
        """Answer, whole or as events."""
        api, began = self.api, time.monotonic()
        with api.holding(len(body)):
            request = await self._parsed(body)
            del body
            images = await self._images(request)
            request.images.clear()  # their texts are large
        slot = api.slot(client)
        try:
            generation, prompt = await self._start(request, images)
        except BaseException:
            slot.release()
            raise
        with self._answering(generation, slot):
            await self._send_answer(request, generation, prompt, began, send)

    async def _send_answer(
        self,
        request: ChatRequest,
        generation: GenerationRequest,
        prompt: ChatPrompt,
        began: float,
        send,
    ) -> None:
        """Send what the engine writes."""
        api = self.api
        about = dict(
            id=f'chatcmpl-{uuid.uuid4().hex}',
            created=int(time.time()),
            model=api.name,
        )
        if prompt.notice:
            about['notice'] = prompt.notice
        pieces = _pieces(generation)
        first = await anext(pieces, '')
        api.metrics.first_token.add(time.monotonic() - began)
        if request.stream:
            await send_events(generation, first, pieces, about, request, send)
        else:
            async for _ in pieces:
                pass
            check_answer(generation)
            content = dict(
                **about,
                object='chat.completion',
                choices=[
                    dict(
                        index=0,
                        message=dict(
                            role='assistant', content=generation.text
                        ),
                        logprobs=None,
                        finish_reason=generation.finish_reason,
                    )
                ],
                usage=usage_of(generation),
            )
            await json_response(content)(_SCOPE, None, send)
        api.metrics.answer.add(time.monotonic() - began)
        usage = usage_of(generation)
        api.metrics.tokens.update(
            prompt=usage['prompt_tokens'],
            cached=generation.reused_tokens,
            completion=usage['completion_tokens'],
        )

    @contextlib.contextmanager
    def _answering(
        self, generation: GenerationRequest, slot: 'Slot'
    ) -> Iterator[None]:
        """Follow an answer; it ends with the request.

        Its slot is free when the engine has ended it, however slowly the
        client reads.
        """
        loop = asyncio.get_running_loop()

        def release(piece: str | None) -> None:
            if piece is None:
                with contextlib.suppress(RuntimeError):  # the loop has ended
                    loop.call_soon_threadsafe(slot.release)

        generation.listen(release)
        try:
            yield
        finally:
            slot.release()
            if not generation.finished:
                generation.cancel()

    async def _parsed(self, body: bytes) -> ChatRequest:
        """Read a request; a large one in a thread.

        Raises:
            ApiError: 400 or 404.
        """
        if len(body) <= _LARGE:
            return self._parse(body)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._parsers, self._parse, body)

    def _parse(self, body: bytes) -> ChatRequest:
        try:
            request = parse_request(
                body, self.model.template, self.model.prompt, self.api.limits
            )
        except BadRequest as error:
            raise ApiError(400, str(error), error.param, error.code) from error
        self.api.check_name(request.model)
        return request

    async def _images(self, request: ChatRequest) -> list[Tensor]:
        """Get the images of a request, all at once.

        Raises:
            ApiError: 400.
        """
        reads = [
            asyncio.ensure_future(self._image(i, url, len(request.images)))
            for i, url in enumerate(request.images, 1)
        ]
        try:
            return await asyncio.gather(*reads)
        finally:
            for read in reads:
                read.cancel()

    async def _start(
        self, request: ChatRequest, images: list[Tensor]
    ) -> tuple[GenerationRequest, ChatPrompt]:
        """Write the prompt, and ask the engine.

        Raises:
            ApiError: 400, 429 or 503.
        """
        loop = asyncio.get_running_loop()
        prompt = await loop.run_in_executor(
            self._parsers, self._prompt, request, images
        )
        try:
            generation = self.api.worker.submit(
                prompt.tokenized, prompt.images, **request.settings
            )
        except QueueFull as error:
            raise self.api.full(str(error), error.retry_after) from error
        except ValueError as error:
            raise ApiError(400, one_line(error)) from error
        except RuntimeError as error:
            raise ApiError(503, one_line(error), retry_after=5) from error
        self.api.metrics.images += len(images)
        return generation, prompt

    async def _image(self, number: int, url: str, count: int) -> Tensor:
        try:
            data = await self.api.sources.bytes_of(url)
            loop = asyncio.get_running_loop()
            key = await loop.run_in_executor(self._parsers, _digest, data)
            tensor = self._pictures.get(key)
            if tensor is None:
                tensor = await loop.run_in_executor(
                    self._readers, self._decode, data
                )
        except ImageError as error:
            which = f'image {number} of {count}: ' if count > 1 else ''
            raise ApiError(
                400, which + str(error), 'messages', 'invalid_image'
            ) from error
        self._pictures[key] = tensor
        self._pictures.move_to_end(key)
        if len(self._pictures) > _PICTURES_KEPT:
            self._pictures.popitem(last=False)
        return tensor

    def _decode(self, data: bytes) -> Tensor:
        return to_tensor(self.api.sources.picture(data), self.model.image_size)

    def _prompt(
        self, request: ChatRequest, images: list[Tensor]
    ) -> ChatPrompt:
        try:
            settings = SamplingParams.of(
                self.model.generation, request.settings
            )
            with self._tokenizer:
                prompt = build_prompt(
                    self.model,
                    request.turns,
                    images,
                    request.system,
                    max_new_tokens=settings.max_new_tokens,
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
                f'the conversation and an answer of '
                f'{settings.max_new_tokens} tokens do not fit into the '
                'context; send fewer messages, or "truncation": "auto" to '
                'have the oldest dropped.',
                'messages',
                'context_length_exceeded',
            )
        return prompt


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data).digest()


async def _disconnected(receive) -> None:
    """Return when the client has left."""
    while (await receive())['type'] != 'http.disconnect':
        pass
