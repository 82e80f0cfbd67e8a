# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Answers: whole, or on their way as the one who asked sees them."""

import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmengine.logging import print_log
from torch import Tensor

from ..deprecated import renamed
from .detokenizer import Detokenizer
from .sampling import Sampler, SamplingParams

if TYPE_CHECKING:
    from .engine import Engine


@dataclass(frozen=True)
class Answer:
    """What the model said.

    Attributes:
        text: The answer, without stop string, stripped.
        token_ids: All generated ids, the stop string's included.
        finished: Whether it ended by itself, not by ``max_new_tokens``.
    """

    text: str
    token_ids: list[int]
    finished: bool


class GenerationRequest:
    """One answer on its way; made by :meth:`Engine.submit`.

    Attributes:
        settings: How it is generated.
        prompt_tokens: Tokens of the prompt, images included.
        reused_tokens: How many of these were not computed again, because
            their keys and values were stored.
        token_ids: The ids so far, stop string included, end of text not.
        text: The text so far; after its first ``min_new_tokens`` tokens it
            never holds a stop string, or the beginning of one that may still
            become one. It never holds half a character.
        finished: Whether nothing more will come.
        finish_reason: Why: ``'stop'`` (end of text or stop string),
            ``'length'``, ``'cancelled'`` or ``'error'``.
        error: What went wrong, for ``'error'``.
    """

    def __init__(
        self,
        engine: 'Engine',
        settings: SamplingParams,
        keys: list[int],
        embeddings: Tensor | None,
        images: list[Tensor],
        stream: Detokenizer,
        sampler: Sampler,
    ) -> None:
        self.settings = settings
        self.prompt_tokens = len(keys)
        self.reused_tokens = 0
        self.token_ids: list[int] = []
        self.text = ''
        self.finished = False
        self.finish_reason: str | None = None
        self.error: Exception | None = None
        self.cancelled = False
        # what the engine works with: what tells the tokens apart, and of how
        # many of them keys and values are in the row's slot
        self.keys = keys
        self.cached = 0
        self.embeddings = embeddings
        self.images = images
        self.stream = stream
        self.sampler = sampler
        self._engine = engine
        self._changed = threading.Condition()
        self._listeners: list[Callable[[str | None], None]] = []

    def cancel(self) -> None:
        """End it; what was said stays. From any thread, at any time."""
        self.cancelled = True

    def pieces(self) -> Iterator[str]:
        """New text as it comes; joined it is ``text``.

        Runs the engine itself, or waits where a worker does. Leaving the
        iteration early cancels the answer.

        Raises:
            Exception: What went wrong, if something did.
        """
        seen = 0
        try:
            while True:
                done = self.finished  # before the text, which may still grow
                if len(self.text) > seen:
                    piece = self.text[seen:]
                    seen += len(piece)
                    yield piece
                elif done:
                    break
                elif not self._engine.has_worker:
                    self._engine.step()
                else:
                    with self._changed:
                        if not self.finished and len(self.text) == seen:
                            self._changed.wait(timeout=1.0)
        finally:
            if not self.finished:
                self.cancel()
        if self.error is not None:
            raise self.error

    def answer(self) -> Answer:
        """Wait for the end.

        Raises:
            Exception: What went wrong, if something did.
        """
        for _ in self.pieces():
            pass
        return Answer(
            self.text, list(self.token_ids), self.finish_reason == 'stop'
        )

    def listen(self, callback: Callable[[str | None], None]) -> None:
        """Have each new piece of text told, and None at the end.

        What was said before is told at once. The callback runs in the
        engine's thread and must be quick.
        """
        with self._changed:
            if self.text:
                callback(self.text)
            if self.finished:
                callback(None)
            else:
                self._listeners.append(callback)

    def say(self, piece: str) -> None:
        """Add to the text (the engine's side)."""
        if not piece:
            return
        with self._changed:
            self.text += piece
            self._tell(piece)

    def finish(self, reason: str, error: Exception | None = None) -> None:
        """Nothing more will come (the engine's side)."""
        if self.finished:
            return
        self.say(self.stream.close())
        with self._changed:
            self.error = error
            self.finish_reason = reason
            self.finished = True
            self._tell(None)
            self._listeners.clear()
        self.images, self.embeddings = [], None

    def _tell(self, piece: str | None) -> None:
        for callback in list(self._listeners):
            try:
                callback(piece)
            except Exception as error:  # the listener's, not the answer's
                self._listeners.remove(callback)
                print_log(
                    f'a listener to an answer failed and is not told any '
                    f'more ({type(error).__name__}: {error}).',
                    logger='current',
                    level=logging.ERROR,
                )
        self._changed.notify_all()


__getattr__ = renamed(__name__, {'Generation': 'GenerationRequest'})
