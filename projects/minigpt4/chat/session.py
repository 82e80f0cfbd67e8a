# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""A chat session: the history of a conversation and its next answer."""

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from torch import Tensor

from ..deprecated import renamed
from ..generation.engine import Engine
from ..generation.request import Answer, GenerationRequest
from ..generation.sampling_params import SamplingParams
from ..generation.worker import EngineWorker
from ..images.read import load_image
from ..models import MiniGPT4
from ..prompts import IMAGE_HERE, Turn, answer_segment, with_images
from ..prompts.image_slots import check_image_slots
from ..prompts.text_validation import check_text
from ..prompts.tokenization import encode_segment
from ..utils.atomic import write_atomically
from .prompt import ChatPrompt, build_prompt
from .saved_chat import image_text, read_saved_chat

__all__ = ['ChatPrompt', 'ChatSession', 'build_prompt']


class ChatSession:
    """A conversation about images, which any turn may add.

    Any thread may ask. Calls of :meth:`answer` are serialised: each prompt
    contains the turns of the calls before. A stream of :meth:`ask` does not
    wait for another stream: its prompt contains the turns that are complete
    when it starts, and its own turn is appended when it ends.

    Args:
        engine: The engine, a worker that runs one, or a model, which gets an
            engine of its own.
        system: The system line. None uses the model's; '' omits it.
        max_context: The most tokens of prompt and answer together. None uses
            the context length of the LLM.
        settings: Generation settings, which override the model's own.

    Attributes:
        turns: The history.
        images: Its images as they were given.
        tensors: Its images as the model receives them, ``(3, H, W)`` uint8.
        last: The last generation request, with ``prompt_tokens`` and
            ``reused_tokens``; None before the first question.
        notice: A sentence about the last prompt, such as dropped turns; or
            None.
    """

    def __init__(
        self,
        engine: 'Engine | EngineWorker | MiniGPT4',
        system: str | None = None,
        max_context: int | None = None,
        **settings: Any,
    ) -> None:
        if isinstance(engine, MiniGPT4):
            engine = Engine(engine, slots=1)
        self.engine = engine
        owner = engine.engine if isinstance(engine, EngineWorker) else engine
        self.model: MiniGPT4 = owner.model
        self.system = system
        self.max_context = max_context
        self.settings = settings
        SamplingParams.of(self.model.generation, settings)
        self.turns: list[Turn] = []
        self.images: list = []
        self.tensors: list[Tensor] = []
        self.last: GenerationRequest | None = None
        self.notice: str | None = None
        # reentrant, because garbage collection may close a stream
        self._history_lock = threading.RLock()
        self._answer_lock = threading.Lock()  # serialises answer()

    def ask(
        self, question: str, images: Sequence = (), **settings: Any
    ) -> Iterator[str]:
        """Ask a question and stream the answer in pieces of text.

        The turn is appended to the history when the stream ends, with the
        text so far if it was cancelled. After an error it is not appended.

        Args:
            question: The question. Each ``<ImageHere>`` is the slot of one
                image; without any slot the images are placed in front.
            images: New images: anything that :func:`~minigpt4.images.read.
                read_image` reads.
            settings: Generation settings, which override the session's.

        Raises:
            SampleError: An image cannot be read.
            ValueError: The question does not fit into the context, has
                another number of image slots than images, or half a
                character.
        """
        return self._ask(question, images, settings)[1]

    def answer(
        self, question: str, images: Sequence = (), **settings: Any
    ) -> Answer:
        """Ask a question and wait for the complete answer; see :meth:`ask`."""
        with self._answer_lock:
            request, pieces = self._ask(question, images, settings)
            for _ in pieces:
                pass
        return request.answer()

    def regenerate(self, **settings: Any) -> Iterator[str]:
        """Answer the last question again and stream the new answer.

        Args:
            settings: Generation settings, which override the session's.

        Raises:
            ValueError: The history is empty.
        """
        with self._history_lock:
            turns = self.turns
            if not turns:
                raise ValueError(
                    'nothing was asked yet; ask a question first.'
                )
            old = turns[-1]
            request = self._submit(
                [*turns[:-1], Turn(old.question)], self.tensors, settings
            )
        return self._stream(request, turns, old.question, [], [], old)

    def cancel(self) -> None:
        """Cancel the answer that is being generated, from any thread."""
        if self.last is not None:
            self.last.cancel()

    def reset(self) -> None:
        """Cancel the answer and clear the history."""
        self.cancel()
        with self._history_lock:
            self.turns, self.images, self.tensors = [], [], []
            self.last = self.notice = None

    def _ask(
        self, question: str, images: Sequence, settings: Mapping[str, Any]
    ) -> tuple[GenerationRequest, Iterator[str]]:
        question = check_text(question, 'the question', allow_empty=True)
        tensors = [
            load_image(image, self.model.image_size) for image in images
        ]
        question = with_images(question, len(tensors), self.model.template)
        check_image_slots(
            question.count(IMAGE_HERE), len(tensors), 'the question'
        )
        with self._history_lock:
            turns = self.turns
            request = self._submit(
                [*turns, Turn(question)], [*self.tensors, *tensors], settings
            )
        return request, self._stream(
            request, turns, question, list(images), tensors
        )

    def _submit(
        self,
        turns: Sequence[Turn],
        tensors: Sequence[Tensor],
        settings: Mapping[str, Any],
    ) -> GenerationRequest:
        merged = {**self.settings, **settings}
        prompt = build_prompt(
            self.model,
            turns,
            tensors,
            self.system,
            self.max_context,
            SamplingParams.of(self.model.generation, merged).max_new_tokens,
        )
        request = self.engine.submit(prompt.tokenized, prompt.images, **merged)
        self.notice = prompt.notice
        self.last = request
        return request

    def _stream(
        self,
        request: GenerationRequest,
        turns: list[Turn],
        question: str,
        images: list,
        tensors: list[Tensor],
        replaced: Turn | None = None,
    ) -> Iterator[str]:
        """Stream an answer, then store its turn.

        Args:
            request: The request that generates the answer.
            turns: The history to store the turn in; it is not stored if
                :meth:`reset` has started another history meanwhile.
            question: The question.
            images: Its images as they were given.
            tensors: Its images as the model receives them.
            replaced: The turn that the new one replaces; None appends it.
        """
        try:
            yield from request.pieces()
        finally:
            with self._history_lock:
                if request.error is None and self.turns is turns:
                    turn = Turn(
                        question,
                        request.text,
                        _answer_token_ids(request, self.model),
                    )
                    index = _index_of(turns, replaced)
                    if index is None:
                        turns.append(turn)
                    else:
                        turns[index] = turn
                    self.images += images
                    self.tensors += tensors

    def save(self, path: 'str | PathLike') -> None:
        """Write the history as JSON.

        Images that were given as paths stay paths; others are embedded as
        PNG.

        Args:
            path: The file to write.
        """
        content = dict(
            system=self.system,
            turns=[
                dict(question=turn.question, answer=turn.answer)
                for turn in self.turns
            ],
            images=[image_text(image) for image in self.images],
        )
        text = json.dumps(content, ensure_ascii=False, indent=2)
        # JSON escapes file names that are not UTF-8 as lone surrogates
        data = (text + '\n').encode(errors='backslashreplace')
        write_atomically(Path(path), data)

    @classmethod
    def load(
        cls,
        path: 'str | PathLike',
        engine: 'Engine | EngineWorker | MiniGPT4',
        **arguments: Any,
    ) -> 'ChatSession':
        """Continue a conversation that :meth:`save` wrote.

        Args:
            path: The file.
            engine: As for a new session.
            arguments: As for a new session.

        Raises:
            SampleError: An image is missing or cannot be read.
            ValueError: The file is not a regular file or not a saved chat.
            OSError: The file is missing or cannot be opened.
        """
        saved = read_saved_chat(path)
        arguments.setdefault('system', saved.system)
        session = cls(engine, **arguments)
        session.tensors = [
            load_image(image, session.model.image_size)
            for image in saved.images
        ]
        session.turns, session.images = saved.turns, saved.images
        return session


def _index_of(turns: Sequence[Turn], turn: Turn | None) -> int | None:
    """The index of this very turn; None if it is not in the history."""
    return next((i for i, other in enumerate(turns) if other is turn), None)


def _answer_token_ids(
    request: GenerationRequest, model: MiniGPT4
) -> tuple[int, ...]:
    """The token ids of an answer and its end symbol, as generated.

    Empty if they do not decode to exactly the text of the answer.
    """
    ids, end = request.token_ids, model.template.end
    detokenizer = request.detokenizer
    if detokenizer.stopped:
        return tuple(ids) if detokenizer.exact_stop == end else ()
    if not detokenizer.complete:
        return ()
    # The LLM did not generate the end symbol. Its token ids are those that
    # it has directly after a word.
    word, word_and_end = (
        encode_segment(
            model.decoder.tokenizer,
            answer_segment('a', model.template, end=with_end),
        )
        for with_end in (False, True)
    )
    has_prefix = word_and_end[: len(word)] == word
    end_ids = word_and_end[len(word) :] if has_prefix else []
    return (*ids, *end_ids) if ids and end_ids else ()


__getattr__ = renamed(__name__, {'Prompt': 'ChatPrompt'})
