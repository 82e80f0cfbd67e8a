# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Answer prompts about many images with one engine, decoding in threads."""

import itertools
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

from mmengine.structures import BaseDataElement
from torch import Tensor

from ..generation.engine import Engine
from ..generation.request import GenerationRequest
from ..images.read import read_file, read_image, to_tensor
from ..models import MiniGPT4
from ..prompts import Turn
from ..utils.errors import one_line, printable
from ..utils.regular_files import open_regular

# consecutive failures of the model that end a run, at least
_MAX_CONSECUTIVE_FAILURES = 16


class ModelFailureError(ValueError):
    """The model fails on every request."""


class CaptionTask(NamedTuple):
    """One prompt about one image.

    Attributes:
        image: Path of the image.
        prompt: The prompt.
        error: Why it cannot be answered; None if it can.
        history: The turns of the conversation before the prompt, with their
            answers. The image belongs to the first question.
        id: What the caller knows the task by.
        check_file: Gets the bytes of the image file before they are decoded;
            what it raises is the error of the task.
    """

    image: str
    prompt: str
    error: str | None = None
    history: tuple[Turn, ...] = ()
    id: Any = None
    check_file: Callable[[bytes], None] | None = None


class TaskAnswer(NamedTuple):
    """What a task gave.

    Attributes:
        task: The task.
        error: Why it has no answer; None if it has one.
        text: The answer.
        tokens: Its tokens, those of a stop string included.
        finished: Whether it ended before ``max_new_tokens``.
        seconds: From its submission to its end.
        bytes: Size of the image file.
        modified_ns: Time of the image file.
    """

    task: CaptionTask
    error: Exception | None = None
    text: str = ''
    tokens: int = 0
    finished: bool = False
    seconds: float = 0.0
    bytes: int = 0
    modified_ns: int = 0


class _LoadedImage(NamedTuple):
    """A decoded image, with size and time of its file."""

    tensor: Tensor  # (3, H, W), uint8
    bytes: int
    modified_ns: int


class _RunningTask(NamedTuple):
    """A task whose request is in the engine."""

    task: CaptionTask
    image: _LoadedImage
    request: GenerationRequest
    started: float


def answer_tasks(
    model: MiniGPT4,
    tasks: Iterable[CaptionTask],
    slots: int,
    workers: int,
    settings: dict[str, Any],
    wait_for_images: bool = False,
) -> Iterator[list[TaskAnswer]]:
    """Answer many prompts while threads decode the next images.

    The failure of one task (its image, a prompt that is too long, an error
    during generation) is the error of its result. The run ends only if the
    model fails on 16 consecutive requests (or on ``2 * slots``, if that is
    more).

    Args:
        model: The model.
        tasks: What to answer; the next ones are taken when there is room.
        slots: Requests that are generated at the same time.
        workers: Threads that decode images.
        settings: Sampling parameters.
        wait_for_images: Whether a free slot waits for the next image, so that
            two runs compute the same batches and give the same bits.

    Yields:
        The tasks that ended in one step, in any order.

    Raises:
        ModelFailureError: The model fails on every request.
    """
    failures = 0
    max_failures = max(_MAX_CONSECUTIVE_FAILURES, 2 * slots)
    engine = Engine(model, slots=slots)
    collator = model.collator(training=False)
    n_ahead = 4 * slots
    pending: deque[tuple[CaptionTask, Future[_LoadedImage]]] = deque()
    running: list[_RunningTask] = []
    remaining = iter(sort_by_prompt_length(tasks, n_ahead))
    with ThreadPoolExecutor(workers) as pool:
        try:
            while True:
                while len(pending) < n_ahead and (
                    task := next(remaining, None)
                ):
                    future = pool.submit(_load, task, model.image_size)
                    pending.append((task, future))
                if not (pending or running):
                    return
                ended = []
                while pending and len(running) < 2 * slots:
                    # an engine with requests does not wait for an image
                    ready = wait_for_images or pending[0][1].done()
                    if running and not ready:
                        break
                    task, future = pending.popleft()
                    try:
                        image = future.result()
                        sample = BaseDataElement(
                            images=[image.tensor],
                            turns=[*task.history, Turn(task.prompt)],
                        )
                        request = engine.submit(
                            collator.tokenize(sample),
                            sample.images,
                            **settings,
                        )
                    except Exception as error:  # of any kind, of one task
                        ended.append(TaskAnswer(task, error))
                    else:
                        now = time.perf_counter()
                        running.append(_RunningTask(task, image, request, now))
                engine.step()
                finished = [r for r in running if r.request.finished]
                running = [r for r in running if not r.request.finished]
                ended.extend(map(_answer, finished))
                if ended:
                    yield ended
                for item in finished:
                    cause = item.request.error
                    failures = 0 if cause is None else failures + 1
                    if cause is not None and failures >= max_failures:
                        raise ModelFailureError(
                            f'the model failed at {failures} questions in '
                            f'succession ({one_line(cause)}); what was '
                            'answered before is kept.'
                        ) from cause
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def sort_by_prompt_length(
    tasks: Iterable[CaptionTask], window: int
) -> Iterator[CaptionTask]:
    """Sort the tasks by the length of their prompts within each window.

    Prompts that are prefilled in one step are padded to the longest. Tasks
    about one image stay in one window, so that the engine reuses its cached
    features and prefix.

    Args:
        tasks: The tasks.
        window: Tasks per window.
    """
    remaining = iter(tasks)
    while chunk := list(itertools.islice(remaining, window)):
        yield from sorted(chunk, key=_prompt_length)


def check_image_file(path: str) -> os.stat_result:
    """Refuse a file whose read could block, e.g. a FIFO.

    Returns:
        Size and time of the file.

    Raises:
        SampleError: It does not exist.
        ValueError: It is not a regular file.
        OSError: It cannot be opened.
    """
    if '\0' in path:
        raise ValueError(f'{printable(path)} has a NUL character.')
    try:
        with open_regular(path) as file:
            return os.fstat(file.fileno())
    except FileNotFoundError:
        read_image(path)  # its error states what to give
        raise


def result_fields(answer: TaskAnswer) -> dict[str, Any]:
    """Fields of the result of a task, without its provenance.

    Returns:
        Those of a :class:`~.results.CaptionResult`.
    """
    task = answer.task
    if answer.error is not None:
        return failure_fields(task, answer.error)
    return dict(
        image=task.image,
        prompt=task.prompt,
        caption=answer.text,
        finished=answer.finished,
        tokens=answer.tokens,
        bytes=answer.bytes,
        modified_ns=answer.modified_ns,
    )


def failure_fields(task: CaptionTask, error: Exception) -> dict[str, Any]:
    """Fields of the result of a task that failed."""
    return dict(image=task.image, prompt=task.prompt, error=one_line(error))


def _load(task: CaptionTask, size: int) -> _LoadedImage:
    status = check_image_file(task.image)
    # read once, so that the checked bytes are those that are decoded
    data = read_file(task.image)
    if task.check_file is not None:
        task.check_file(data)
    image = read_image(data, task.image)
    return _LoadedImage(
        to_tensor(image, size), status.st_size, status.st_mtime_ns
    )


def _prompt_length(task: CaptionTask) -> int:
    answers = sum(len(turn.answer or '') for turn in task.history)
    return len(task.prompt) + answers


def _answer(item: _RunningTask) -> TaskAnswer:
    task, image, request, started = item
    if request.error is not None:
        return TaskAnswer(task, request.error)
    return TaskAnswer(
        task,
        text=request.answer().text,
        tokens=len(request.token_ids),
        finished=request.finish_reason == 'stop',
        seconds=time.perf_counter() - started,
        bytes=image.bytes,
        modified_ns=image.modified_ns,
    )
