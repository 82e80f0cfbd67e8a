# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""A chat: its history, and the answers that follow it."""

import json
import threading
from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path

from torch import Tensor

from ..generation.engine import Engine
from ..generation.request import Answer, GenerationRequest
from ..generation.sampling import SamplingParams
from ..generation.worker import EngineWorker
from ..images.read import read_image, to_tensor
from ..models import MiniGPT4
from ..prompts import IMAGE_HERE, Turn, with_images
from ..prompts.text_validation import check_text
from ..prompts.tokenization import encode_answer
from ..utils.atomic import write_atomically
from .prompt import Prompt, build_prompt
from .saved_chat import image_text, read_saved_chat

__all__ = ['ChatSession', 'Prompt', 'build_prompt']


class ChatSession:
    """A conversation about images, which come with any turn.

    Any thread may ask. Those that wait for whole answers (:meth:`answer`) are
    answered one after another, each with the turns before it in its prompt.
    A stream of :meth:`ask` does not wait for another: its prompt has the
    turns that are complete when it begins, and its turn follows when it ends.

    Args:
        engine: What answers: an engine, a worker that runs one, or a model,
            which gets an engine of its own.
        system: The system line; None is the model's, '' leaves it out.
        max_context: Tokens of prompt and answer together; None is what the
            LLM takes.
        settings: Of generation, over the model's own.

    Attributes:
        turns: The history.
        images: Its images, as they were given.
        last: The last answer, which knows ``prompt_tokens`` and
            ``reused_tokens``.
        notice: What the user should know of the last prompt, such as turns
            that did not fit; or None.
    """

    def __init__(
        self,
        engine: 'Engine | EngineWorker | MiniGPT4',
        system: str | None = None,
        max_context: int | None = None,
        **settings,
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
        self.last: GenerationRequest | None = None
        self.notice: str | None = None
        self._tensors: list[Tensor] = []
        # reentrant: a stream may be closed by garbage collection
        self._history_lock = threading.RLock()
        self._answer_lock = threading.Lock()  # one whole answer at a time

    def ask(
        self, question: str, images: Sequence = (), **settings
    ) -> Iterator[str]:
        """Ask; gives the answer piece by piece.

        The turn is in the history once the stream ends, also when it was
        cancelled (with what had been said), not after an error.

        Args:
            question: The question; its images stand where it says
                ``<ImageHere>``, else in front.
            images: New images, as :func:`~minigpt4.images.read.
                read_image` takes them.
            settings: Over those of the session.

        Raises:
            SampleError: An image cannot be read.
            ValueError: The question does not fit into the context, has
                another number of image slots than images, or half a
                character.
        """
        return self._ask(question, images, settings)[1]

    def _ask(
        self, question: str, images: Sequence, settings: dict
    ) -> tuple[GenerationRequest, Iterator[str]]:
        question = check_text(question, 'the question', allow_empty=True)
        tensors = [
            to_tensor(read_image(image), self.model.image_size)
            for image in images
        ]
        question = with_images(question, len(tensors), self.model.template)
        if question.count(IMAGE_HERE) != len(tensors):
            raise ValueError(
                f'{question.count(IMAGE_HERE)} image slots in the question '
                f'but {len(tensors)} images were given; write {IMAGE_HERE} '
                'once per image.'
            )
        with self._history_lock:
            generation = self._submit(
                [*self.turns, Turn(question)],
                [*self._tensors, *tensors],
                settings,
            )
            turns = self.turns
        return generation, self._stream(
            generation, turns, question, list(images), tensors
        )

    def answer(
        self, question: str, images: Sequence = (), **settings
    ) -> Answer:
        """Ask and wait for the whole answer; see :meth:`ask`."""
        with self._answer_lock:
            generation, pieces = self._ask(question, images, settings)
            for _ in pieces:
                pass
        return generation.answer()

    def regenerate(self, **settings) -> Iterator[str]:
        """Answer the last question again; gives the new answer in pieces.

        Raises:
            ValueError: Nothing was asked yet.
        """
        with self._history_lock:
            turns = self.turns
            if not turns:
                raise ValueError(
                    'nothing was asked yet; ask a question first.'
                )
            old = turns[-1]
            generation = self._submit(
                [*turns[:-1], Turn(old.question)], self._tensors, settings
            )
        return self._stream(generation, turns, old.question, [], [], old)

    def cancel(self) -> None:
        """End the answer that is being written, from any thread."""
        if self.last is not None:
            self.last.cancel()

    def reset(self) -> None:
        """Forget turns and images."""
        self.cancel()
        with self._history_lock:
            self.turns, self.images, self._tensors = [], [], []
            self.last = self.notice = None

    def _submit(self, turns, tensors, settings) -> GenerationRequest:
        merged = {**self.settings, **settings}
        prompt = build_prompt(
            self.model,
            turns,
            tensors,
            self.system,
            self.max_context,
            SamplingParams.of(self.model.generation, merged).max_new_tokens,
        )
        generation = self.engine.submit(prompt.row, prompt.images, **merged)
        self.notice = prompt.notice
        self.last = generation
        return generation

    def _stream(
        self,
        generation: GenerationRequest,
        turns: list[Turn],
        question: str,
        images: list,
        tensors: list[Tensor],
        replaced: Turn | None = None,
    ) -> Iterator[str]:
        try:
            yield from generation.pieces()
        finally:
            with self._history_lock:
                if generation.error is None and self.turns is turns:
                    spelling = _spelling(generation, self.model)
                    turn = Turn(question, generation.text, spelling)
                    at = _position(turns, replaced)
                    if at is None:
                        turns.append(turn)
                    else:
                        turns[at] = turn
                    self.images += images
                    self._tensors += tensors

    def save(self, path: 'str | PathLike') -> None:
        """Write the history as JSON.

        Images that came as paths stay paths; others are written into it, as
        PNG.
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
        # names that are not UTF-8 stay lone surrogates, as JSON escapes them
        data = (text + '\n').encode(errors='backslashreplace')
        write_atomically(Path(path), data)

    @classmethod
    def load(
        cls, path: 'str | PathLike', engine, **arguments
    ) -> 'ChatSession':
        """Go on with a history that was saved.

        Args:
            path: The file.
            engine: As for a new session.
            arguments: As for a new session.

        Raises:
            SampleError: An image cannot be read any more.
            ValueError: The file is not a regular file or not a saved chat.
            OSError: It is missing or cannot be opened.
        """
        saved = read_saved_chat(path)
        arguments.setdefault('system', saved.system)
        session = cls(engine, **arguments)
        session._tensors = [
            to_tensor(read_image(image), session.model.image_size)
            for image in saved.images
        ]
        session.turns, session.images = saved.turns, saved.images
        return session


def _position(turns: Sequence[Turn], turn: Turn | None) -> int | None:
    """Where the very turn is; None where it is not."""
    return next((i for i, x in enumerate(turns) if x is turn), None)


def _spelling(
    generation: GenerationRequest, model: MiniGPT4
) -> tuple[int, ...]:
    """The ids of an answer and the template's end, as the model wrote them.

    Empty where they are not known to be the text of the answer.
    """
    ids, end = generation.token_ids, model.template.end
    stream = generation.detokenizer
    if stream.stopped:
        return tuple(ids) if stream.exact_stop == end else ()
    if not stream.complete:
        return ()
    # it ended without the end symbol, which is glued to a word then
    word, glued = (
        encode_answer(model.decoder.tokenizer, 'a', text) for text in ('', end)
    )
    closing = glued[len(word) :] if glued[: len(word)] == word else []
    return (*ids, *closing) if ids and closing else ()
