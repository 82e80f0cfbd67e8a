# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""A generation request and its answer, complete or in pieces."""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from mmengine.logging import print_log
from torch import Tensor

from ..deprecated import renamed
from .detokenizer import Detokenizer
from .logprobs import TextTokens, TokenLogprob
from .sampler import Sampler
from .sampling_params import SamplingParams


@dataclass(frozen=True)
class Answer:
    """A generated text.

    Attributes:
        text: The text, without stop string, stripped.
        token_ids: All generated ids, those of the stop string included.
        finished: Whether it ended with end of text or a stop string, not at
            ``max_new_tokens``.
        logprobs: The log-probability of each of ``token_ids``; None unless
            the sampling parameter ``logprobs`` asks for them.
    """

    text: str
    token_ids: list[int]
    finished: bool
    logprobs: list[TokenLogprob] | None = None


class GenerationRequest:
    """A prompt with its sampling parameters, and the answer so far.

    Created by :meth:`Engine.submit`. The attributes of the first group may be
    read from any thread; those of the second belong to the engine.

    Args:
        sampling_params: How the answer is generated.
        cache_key: See :attr:`cache_key`.
        detokenizer: Of the answer.
        sampler: Of the answer.
        advance: Runs one step of the engine; returns False, without a step,
            where a worker thread runs it.
        images: See :attr:`images`.
        embeddings: See :attr:`embeddings`.
        uses_prefix_cache: See :attr:`uses_prefix_cache`.

    Attributes:
        sampling_params: How the answer is generated.
        prompt_tokens: Tokens of the prompt, images included.
        reused_tokens: How many of these came from the prefix cache.
        token_ids: The ids so far, stop string included, end of text not.
        text: The text so far. It never holds half a character, and after the
            first ``min_new_tokens`` tokens never a stop string or a prefix of
            one that the next tokens may complete.
        logprobs: The log-probability of each of ``token_ids``, with the
            likeliest tokens at its position; empty unless the sampling
            parameter ``logprobs`` asks for them.
        text_tokens: How many of the first ``token_ids`` have text in
            ``text``; tokens of a stop string are not counted. Only counted
            with ``logprobs``; see :class:`~.logprobs.TextTokens`.
        finished: Whether the request is complete.
        finish_reason: ``'stop'`` (end of text or stop string), ``'length'``,
            ``'cancelled'`` or ``'error'``; None while it is not finished.
        error: The exception, for ``'error'``.
        cancelled: Whether :meth:`cancel` was called.

        cache_key: Cache key of prompt and answer, one number for each
            position; see :func:`~.prefix_cache.make_cache_key`.
        images: Images by their digest, ``(3, H, W)`` uint8.
        embeddings: ``(T, hidden_size)`` of a prompt that was given as
            embeddings; else None.
        uses_prefix_cache: Whether equal prompts have equal cache keys.
        slot: The KV slot while it is running, else None.
        detokenizer: Turns ``token_ids`` into ``text``.
        sampler: Chooses the next token.
    """

    def __init__(
        self,
        sampling_params: SamplingParams,
        cache_key: list[int],
        detokenizer: Detokenizer,
        sampler: Sampler,
        advance: Callable[[], bool],
        images: Mapping[int, Tensor] | None = None,
        embeddings: Tensor | None = None,
        uses_prefix_cache: bool = True,
    ) -> None:
        self.sampling_params = sampling_params
        self.prompt_tokens = len(cache_key)
        self.reused_tokens = 0
        self.token_ids: list[int] = []
        self.text = ''
        self.logprobs: list[TokenLogprob] = []
        self.text_tokens = 0
        self.finished = False
        self.finish_reason: str | None = None
        self.error: Exception | None = None
        self.cancelled = False

        self.cache_key = cache_key
        self.images = dict(images or {})
        self.embeddings = embeddings
        self.uses_prefix_cache = uses_prefix_cache
        self.slot: int | None = None
        self.detokenizer = detokenizer
        self.sampler = sampler
        self._advance = advance
        self._changed = threading.Condition()
        self._listeners: list[Callable[[str | None], None]] = []
        self._counter: TextTokens | None = None
        if sampling_params.logprobs is not None:
            self._counter = TextTokens(detokenizer)

    def cancel(self) -> None:
        """End the request at the next step; its text so far is retained.

        May be called from any thread, at any time.
        """
        self.cancelled = True

    def pieces(self) -> Iterator[str]:
        """Yield new text as it is generated; joined it is ``text``.

        Runs the engine, or waits for the worker thread that runs it. Closing
        the iterator early cancels the request.

        Raises:
            Exception: The error of the request, if it failed.
        """
        length = 0
        try:
            while True:
                done = self.finished  # before the text, which may still grow
                if len(self.text) > length:
                    piece = self.text[length:]
                    length += len(piece)
                    yield piece
                elif done:
                    break
                elif not self._advance():
                    with self._changed:
                        if not self.finished and len(self.text) == length:
                            self._changed.wait(timeout=1.0)
        finally:
            if not self.finished:
                self.cancel()
        if self.error is not None:
            raise self.error

    def answer(self) -> Answer:
        """Wait for the end of the request.

        Raises:
            Exception: The error of the request, if it failed.
        """
        for _ in self.pieces():
            pass
        return Answer(
            self.text,
            list(self.token_ids),
            self.finish_reason == 'stop',
            None if self._counter is None else list(self.logprobs),
        )

    def listen(self, callback: Callable[[str | None], None]) -> None:
        """Call a function with each new piece of text, and None at the end.

        Text that is there already is passed immediately. The callback runs in
        the engine's thread and must return quickly. Meanwhile
        ``text_tokens`` belongs to the text that was passed so far.
        """
        with self._changed:
            if self.text:
                callback(self.text)
            if self.finished:
                callback(None)
            else:
                self._listeners.append(callback)

    def append_token(
        self, token_id: int, logprob: TokenLogprob | None = None
    ) -> None:
        """Add a generated token and its text (called by the engine).

        Args:
            token_id: The token.
            logprob: Its log-probability, if the request asks for it.
        """
        self.token_ids.append(token_id)
        self.cache_key.append(token_id)
        if self._counter is None:
            self.append_text(self.detokenizer.add(token_id))
        else:
            if logprob is not None:
                self.logprobs.append(logprob)
            piece = self._counter.add(token_id)
            self.append_text(piece, self._counter.count)

    def set_answer(self, answer: Answer) -> None:
        """Set the answer, in one piece (called by the engine)."""
        self.token_ids = answer.token_ids
        if self._counter is None:
            self.append_text(answer.text)
            return
        self.logprobs = answer.logprobs or []
        for token_id in answer.token_ids:
            self._counter.add(token_id)
        self._counter.close()
        self.append_text(answer.text, self._counter.count)

    def append_text(self, piece: str, text_tokens: int = 0) -> None:
        """Add to the text (called by the engine).

        Args:
            piece: The new text.
            text_tokens: The new :attr:`text_tokens`.
        """
        if not piece:
            return
        with self._changed:
            self.text += piece
            self.text_tokens = text_tokens
            self._notify(piece)

    def finish(self, reason: str, error: Exception | None = None) -> None:
        """Complete the request (called by the engine)."""
        if self.finished:
            return
        if self._counter is None:
            self.append_text(self.detokenizer.close())
        else:
            piece = self._counter.close()
            self.append_text(piece, self._counter.count)
        with self._changed:
            if self._counter is not None:
                self.text_tokens = self._counter.count
            self.error = error
            self.finish_reason = reason
            self.finished = True
            self._notify(None)
            self._listeners.clear()
        self.images, self.embeddings = {}, None

    def _notify(self, piece: str | None) -> None:
        for callback in list(self._listeners):
            try:
                callback(piece)
            except Exception as error:  # a fault of the listener alone
                self._listeners.remove(callback)
                print_log(
                    'a listener to an answer failed and is not called any '
                    f'more ({type(error).__name__}: {error}).',
                    logger='current',
                    level=logging.ERROR,
                )
        self._changed.notify_all()


__getattr__ = renamed(__name__, {'Generation': 'GenerationRequest'})
