# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Answer the dialogues of a harness with one engine.

A dialogue is a generator: it yields prompts and receives their answers, until
it returns its result. Its own code, which reads documents and decodes images,
runs in threads while the engine generates.
"""

import itertools
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import (
    FIRST_COMPLETED,
    Future,
    ThreadPoolExecutor,
    wait,
)
from dataclasses import asdict
from typing import Any, NamedTuple, TypeVar

from mmengine.structures import BaseDataElement
from torch import Tensor

from ..captioning.batch import ModelFailureError
from ..chat.prompt import build_prompt
from ..generation.engine import Engine
from ..generation.request import GenerationRequest
from ..generation.sampling_params import SamplingParams
from ..images.read import load_image
from ..models import MiniGPT4
from ..prompts import TokenizedPrompt
from ..utils.errors import one_line
from .answer_log import AnswerLog
from .prompts import Question

# consecutive failures of the model that end a run, at least
_MAX_CONSECUTIVE_FAILURES = 16
_T = TypeVar('_T')


class Prompt(NamedTuple):
    """A prompt as the engine takes it.

    Attributes:
        tokenized: The token ids.
        images: ``(3, H, W)`` uint8, one for each image slot.
        settings: Sampling parameters over the model's own.
    """

    tokenized: TokenizedPrompt
    images: list[Tensor]
    settings: dict[str, Any]


Dialogue = Generator[Prompt, str, Any]


class Outcome(NamedTuple):
    """What a dialogue gave.

    Attributes:
        number: Its number, from 0.
        result: What it returned.
        error: Why it gave nothing; None if it has a result.
    """

    number: int
    result: Any = None
    error: Exception | None = None


class ScoreTask(NamedTuple):
    """Answers to score.

    Attributes:
        prompt: The prompt.
        candidates: The answers.
    """

    prompt: Prompt
    candidates: list[str]


class _Advanced(NamedTuple):
    """A dialogue after its code has run."""

    number: int
    dialogue: Dialogue
    prompt: Prompt | None = None  # None at its end
    key: str = ''
    result: Any = None
    error: Exception | None = None


class _Running(NamedTuple):
    """A dialogue whose prompt is in the engine."""

    advanced: _Advanced
    request: GenerationRequest


def default_workers() -> int:
    """Number of threads that read documents."""
    return min(8, os.cpu_count() or 1)


def make_prompt(
    model: MiniGPT4, question: Question, settings: dict[str, Any]
) -> Prompt:
    """Read the images of a question and tokenise it.

    The prompt is that of ``minigpt4 caption`` and ``minigpt4 eval``; with a
    system message it is that of a chat. ``max_new_tokens`` is lowered to what
    the context of the LLM has room for.

    Raises:
        SampleError: An image cannot be read.
        ValueError: The numbers of image slots and images differ, or the
            prompt exceeds the context.
    """
    images = [load_image(image, model.image_size) for image in question.images]
    if question.system is None:
        sample = BaseDataElement(images=images, turns=question.turns)
        tokenized = model.collator(training=False).tokenize(sample)
    else:
        tokenized = build_prompt(
            model, question.turns, images, question.system, max_new_tokens=1
        ).tokenized
    per_image = model.num_image_tokens - 1
    length = len(tokenized.ids) + tokenized.num_images * per_image
    params = SamplingParams.of(model.generation, settings)
    if model.context_length:
        room = model.context_length - length
        if room < 1:
            raise ValueError(
                f'the prompt of {length} tokens fills the context of '
                f'{model.context_length}; shorten it or give fewer images.'
            )
        if room < params.max_new_tokens:
            settings = settings | {'max_new_tokens': room}
    return Prompt(tokenized, images, settings)


def answer_dialogues(
    engine: Engine,
    dialogues: Iterable[Dialogue],
    workers: int,
    log: AnswerLog,
) -> Iterator[Outcome]:
    """Answer many dialogues; the failure of one is its outcome.

    Args:
        engine: The engine, without requests.
        dialogues: What to answer; the next ones are taken when there is room.
        workers: Threads that run the code of dialogues.
        log: Known answers, to which new ones of greedy decoding are added.

    Yields:
        The outcome of each dialogue, in any order.

    Raises:
        ModelFailureError: The model fails on every request.
    """
    failures = 0
    max_failures = max(_MAX_CONSECUTIVE_FAILURES, 2 * engine.slots)
    remaining = iter(enumerate(dialogues))
    pending: deque[Future[_Advanced]] = deque()
    running: list[_Running] = []
    with ThreadPoolExecutor(workers) as pool:
        try:
            while True:
                new = itertools.islice(
                    remaining, max(0, 4 * engine.slots - len(pending))
                )
                for i, dialogue in new:
                    first = _Advanced(i, dialogue)
                    pending.append(
                        pool.submit(_advance, engine.model, first, None, log)
                    )
                if not (pending or running):
                    return
                if not running:
                    wait(pending, return_when=FIRST_COMPLETED)
                ready = [future for future in pending if future.done()]
                for future in ready[: 2 * engine.slots - len(running)]:
                    pending.remove(future)
                    advanced = future.result()
                    if advanced.prompt is None:
                        yield Outcome(
                            advanced.number, advanced.result, advanced.error
                        )
                        continue
                    prompt = advanced.prompt
                    try:
                        request = engine.submit(
                            prompt.tokenized, prompt.images, **prompt.settings
                        )
                    except Exception as error:  # of any kind, of one dialogue
                        yield Outcome(advanced.number, error=error)
                    else:
                        running.append(_Running(advanced, request))
                engine.step()
                finished = [r for r in running if r.request.finished]
                running = [r for r in running if not r.request.finished]
                for advanced, request in finished:
                    cause = request.error
                    failures = 0 if cause is None else failures + 1
                    if cause is not None:
                        yield Outcome(advanced.number, error=cause)
                        if failures >= max_failures:
                            raise _model_failure(failures, cause)
                        continue
                    log.add(advanced.key, request.text)
                    pending.appendleft(
                        pool.submit(
                            _advance, engine.model, advanced, request.text, log
                        )
                    )
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def score_tasks(
    engine: Engine,
    tasks: Iterable[Callable[[], ScoreTask]],
    workers: int,
    log: AnswerLog,
) -> Iterator[Outcome]:
    """Score given answers, while threads read the next documents.

    Args:
        engine: The engine, without requests.
        tasks: Functions that return what to score.
        workers: Threads that call them.
        log: Known scores, to which new ones are added.

    Yields:
        An outcome for each task, in their order. Its result is a list of
        ``[mean, num_tokens, is_greedy]``, one for each answer.

    Raises:
        ModelFailureError: The model fails on every request.
    """
    failures = 0
    for i, loaded in enumerate(_load_ahead(tasks, workers)):
        if isinstance(loaded, Exception):
            yield Outcome(i, error=loaded)
            continue
        prompt, candidates = loaded
        key = log.key(
            'score', prompt.tokenized, prompt.images, sorted(candidates)
        )
        scores = dict(log.get(key) or ())
        try:
            if not scores:
                found = engine.score_answers(
                    prompt.tokenized, prompt.images, candidates
                )
                scores = dict(zip(candidates, map(list, found), strict=True))
                log.add(key, list(scores.items()))
        except Exception as error:  # of any kind, of one task
            yield Outcome(i, error=error)
            # a ValueError is about this task, not about the model
            failures = 0 if isinstance(error, ValueError) else failures + 1
            if failures >= _MAX_CONSECUTIVE_FAILURES:
                raise _model_failure(failures, error) from error
            continue
        failures = 0
        yield Outcome(i, [scores[text] for text in candidates])


def _advance(
    model: MiniGPT4, advanced: _Advanced, answer: str | None, log: AnswerLog
) -> _Advanced:
    """Run the code of a dialogue up to a prompt without a known answer."""
    number, dialogue, *_ = advanced
    known: Any = answer
    try:
        while True:
            # a generator that was not started takes None
            prompt = dialogue.send(known)
            params = SamplingParams.of(model.generation, prompt.settings)
            key = ''
            if not params.do_sample:
                key = log.key(
                    'answer', prompt.tokenized, prompt.images, asdict(params)
                )
            known = log.get(key)
            if known is None:
                return _Advanced(number, dialogue, prompt, key)
    except StopIteration as end:
        return _Advanced(number, dialogue, result=end.value)
    except Exception as error:  # of any kind, e.g. in the code of a task
        return _Advanced(number, dialogue, error=error)


def _load_ahead(
    tasks: Iterable[Callable[[], _T]], workers: int
) -> Iterator['_T | Exception']:
    """Call functions in threads; yields their results or errors in order."""
    remaining = iter(tasks)
    pending: deque[Future[_T]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            while True:
                missing = 4 * workers - len(pending)
                for task in itertools.islice(remaining, missing):
                    pending.append(pool.submit(task))
                if not pending:
                    return
                future = pending.popleft()
                try:
                    result: _T | Exception = future.result()
                except Exception as error:  # of any kind, of one task
                    result = error
                yield result
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _model_failure(number: int, cause: Exception) -> ModelFailureError:
    return ModelFailureError(
        f'the model failed at {number} questions in succession '
        f'({one_line(cause)}); with answers=DIR, what was answered before is '
        'kept.'
    )
