# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""A chat: its history, and the prompt that it is for the model."""

import bisect
import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path

from torch import Tensor

from ..atomic import write_atomically
from ..datasets.images import read_image, to_tensor
from ..encoding import encode_answer
from ..errors import printable
from ..models import MiniGPT4
from ..models.engine import Engine
from ..models.generation import Answer, Generation
from ..models.sampling import Settings
from ..prompts import (
    IMAGE_HERE,
    PromptTemplate,
    Row,
    Turn,
    render_chat,
    tokenize,
    with_images,
)
from ..texts import check_text
from .saved_chat import image_text, read_saved_chat
from .worker import EngineWorker


@dataclass
class Prompt:
    """A chat as an engine takes it.

    Attributes:
        row: The tokenised prompt.
        images: ``(3, H, W)`` uint8, one for each image slot.
        tokens: Tokens of the prompt, images included.
        dropped: Turns that did not fit.
        notice: A sentence that says so, or None.
    """

    row: Row
    images: list[Tensor]
    tokens: int
    dropped: int = 0
    notice: str | None = None


class ContextLengthError(ValueError):
    """The last question and its answer exceed the LLM's context."""


def build_prompt(
    model: MiniGPT4,
    turns: Sequence[Turn],
    images: Sequence,
    system: str | None = None,
    max_context: int | None = None,
    max_new_tokens: int | None = None,
) -> Prompt:
    """A chat as a prompt that leaves room for the answer.

    What is too long loses its oldest turns, never the beginning-of-text
    token, the system line or an image: images of turns that are dropped
    move in front of the first question that is kept.

    Args:
        model: The model.
        turns: The turns; the answer of the last is None. Images stand where
            a question says ``<ImageHere>``; where none does, in front of the
            first.
        images: What :func:`~minigpt4.datasets.images.read_image` reads, or
            ``(3, H, W)`` uint8 tensors, in their order.
        system: The system line; None is the model's, '' leaves it out.
        max_context: Tokens of prompt and answer together; None is what the
            LLM takes.
        max_new_tokens: Tokens that are left to the answer; None is the
            model's own setting.

    Raises:
        SampleError: An image cannot be read.
        ValueError: There are more or fewer image slots than images, or even
            the last question does not fit, or one is refused by
            :func:`~minigpt4.texts.check_text`.
    """
    turns = [
        replace(
            turn,
            question=check_text(
                turn.question, 'the question', allow_empty=True
            ),
        )
        for turn in turns
    ]
    template = model.template
    if system is None:
        system = model.system
    if system is not None:
        system = check_text(system, 'the system line', allow_empty=True)
    limit = getattr(model.decoder.llm.config, 'max_position_embeddings', None)
    context = min(x for x in (max_context, limit, 2**31) if x)
    if max_new_tokens is None:
        max_new_tokens = Settings.of(model.generation).max_new_tokens
    if turns and not any(IMAGE_HERE in turn.question for turn in turns):
        turns[0] = replace(
            turns[0],
            question=with_images(turns[0].question, len(images), template),
        )
    slots = [turn.question.count(IMAGE_HERE) for turn in turns]
    if sum(slots) != len(images):
        raise ValueError(
            f'{sum(slots)} image slots in the chat but {len(images)} images '
            f'were given; write {IMAGE_HERE} once per image, and nowhere '
            'else.'
        )
    number = model.neck.num_tokens

    def without(dropped: int) -> tuple[Row, int]:
        kept = turns[dropped:]
        kept[0] = _with_older_images(kept[0], sum(slots[:dropped]), template)
        row = tokenize(
            render_chat(kept, template, system), model.decoder.tokenizer
        )
        return row, len(row.ids) + row.num_images * (number - 1)

    def fits(dropped: int) -> bool:
        return without(dropped)[1] + max_new_tokens <= context

    dropped, (row, tokens) = 0, without(0)
    if tokens + max_new_tokens > context:
        dropped = bisect.bisect_left(range(len(turns) - 1), True, key=fits)
        row, tokens = without(dropped)
    if tokens + max_new_tokens > context:
        raise ContextLengthError(
            f'the last question with {row.num_images} images takes {tokens} '
            f'tokens and its answer up to {max_new_tokens}, but the context '
            f'holds {context}; ask something shorter, show fewer images or '
            'lower max_new_tokens.'
        )
    notice = None
    if dropped:
        turns_were = 'turn was' if dropped == 1 else 'turns were'
        notice = (
            f'the context is full ({context} tokens): the {dropped} oldest '
            f'{turns_were} dropped'
            f'{", their images kept" if sum(slots[:dropped]) else ""}.'
        )
    tensors = [
        image
        if isinstance(image, Tensor)
        else to_tensor(read_image(image), model.image_size)
        for image in images
    ]
    return Prompt(row, tensors, tokens, dropped, notice)


def _with_older_images(
    turn: Turn, number: int, template: PromptTemplate
) -> Turn:
    if not number:
        return turn
    images = ''.join(template.image for _ in range(number))
    blank = '' if template.image == IMAGE_HERE else ' '
    return replace(turn, question=images + blank + turn.question)


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
        Settings.of(self.model.generation, settings)
        self.turns: list[Turn] = []
        self.images: list = []
        self.last: Generation | None = None
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
            images: New images, as :func:`~minigpt4.datasets.images.
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
    ) -> tuple[Generation, Iterator[str]]:
        _require_text(question)
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

    def _submit(self, turns, tensors, settings) -> Generation:
        merged = {**self.settings, **settings}
        prompt = build_prompt(
            self.model,
            turns,
            tensors,
            self.system,
            self.max_context,
            Settings.of(self.model.generation, merged).max_new_tokens,
        )
        generation = self.engine.submit(prompt.row, prompt.images, **merged)
        self.notice = prompt.notice
        self.last = generation
        return generation

    def _stream(
        self,
        generation: Generation,
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
        # names that are no UTF-8 stay lone surrogates, as JSON escapes them
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
            ValueError: The file is no regular file or no saved chat.
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


def _require_text(question: str) -> None:
    try:
        question.encode()
    except UnicodeEncodeError:
        raise ValueError(
            f'the question {printable(question)[:200]!r} holds half a '
            'character or bytes that are no UTF-8; write it in UTF-8.'
        ) from None


def _spelling(generation: Generation, model: MiniGPT4) -> tuple[int, ...]:
    """The ids of an answer and the template's end, as the model wrote them.

    Empty where they are not known to be the text of the answer.
    """
    ids, end = generation.token_ids, model.template.end
    stream = generation.stream
    if stream.stopped:
        return tuple(ids) if stream.ended_by == end else ()
    if not stream.whole:
        return ()
    # it ended without the end symbol, which is glued to a word then
    word, glued = (
        encode_answer(model.decoder.tokenizer, 'a', text) for text in ('', end)
    )
    closing = glued[len(word) :] if glued[: len(word)] == word else []
    return (*ids, *closing) if ids and closing else ()
