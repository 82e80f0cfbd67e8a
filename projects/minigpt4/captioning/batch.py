# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Many questions about pictures through one engine, decoded meanwhile."""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

from mmengine.structures import BaseDataElement
from torch import Tensor

from ..generation.engine import Engine
from ..generation.request import GenerationRequest
from ..images.read import load_image, read_image
from ..models import MiniGPT4
from ..prompts import Turn
from ..utils.errors import one_line, printable
from ..utils.regular_files import open_regular

_MAX_FAULTS = 16  # failures of the model in succession, at least


class ModelFaultError(ValueError):
    """The model fails at every question."""


class Job(NamedTuple):
    """A picture and what is asked about it.

    Attributes:
        image: Path of the picture.
        prompt: The question.
        error: Why it cannot be asked; None if it can.
    """

    image: str
    prompt: str
    error: str | None = None


class _Picture(NamedTuple):
    """A decoded picture, with what its file was like."""

    tensor: Tensor
    bytes: int
    modified_ns: int


def answer_all(
    model: MiniGPT4,
    jobs: Sequence[Job],
    slots: int,
    workers: int,
    settings: dict[str, Any],
) -> Iterator[dict[str, Any]]:
    """Answer many questions, pictures being decoded in threads meanwhile.

    Whatever is wrong with one question (its picture, a prompt that is too
    long, a failure while it is answered) is the error of its row. Only where
    the model fails at 16 questions in succession (at ``2 * slots``, if that
    is more) and answers none between them, the run ends.

    Args:
        model: The model.
        jobs: What to answer.
        slots: Answers at once.
        workers: Threads that decode.
        settings: Of generation.

    Yields:
        Fields of a :class:`CaptionRow` as each answer ends, in any order.

    Raises:
        ModelFaultError: The model fails at every question.
    """
    faults, max_faults = 0, max(_MAX_FAULTS, 2 * slots)
    engine = Engine(model, slots=slots)
    collator = model.collator(training=False)
    size, ahead = model.image_size, 4 * slots
    waiting: deque[tuple[Job, Future[_Picture]]] = deque()
    running: list[tuple[Job, _Picture, GenerationRequest]] = []
    left = iter(in_order(jobs, ahead))
    with ThreadPoolExecutor(workers) as pool:
        try:
            while True:
                while len(waiting) < ahead and (job := next(left, None)):
                    future = pool.submit(_load, job.image, size)
                    waiting.append((job, future))
                if not (waiting or running):
                    return
                # an engine that has work does not wait for a picture
                while waiting and len(running) < 2 * slots:
                    if running and not waiting[0][1].done():
                        break
                    job, future = waiting.popleft()
                    try:
                        picture = future.result()
                        sample = BaseDataElement(
                            images=[picture.tensor], turns=[Turn(job.prompt)]
                        )
                        generation = engine.submit(
                            collator.tokenize(sample),
                            sample.images,
                            **settings,
                        )
                    except Exception as error:
                        yield failed(job, error)
                        continue
                    running.append((job, picture, generation))
                engine.step()
                for item in [r for r in running if r[2].finished]:
                    running.remove(item)
                    fault = item[2].error
                    faults = 0 if fault is None else faults + 1
                    yield _answered(*item)
                    if fault is not None and faults >= max_faults:
                        raise ModelFaultError(
                            f'the model failed at {faults} questions in '
                            f'succession ({one_line(fault)}); what was '
                            'answered before is kept.'
                        ) from fault
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def in_order(jobs: Sequence[Job], window: int) -> Iterator[Job]:
    """Jobs with prompts of like length together, within each window.

    Prompts that begin to be read in one step are padded to the longest.
    Within a window, so that the questions about one picture stay close and
    the engine still knows what it saw.
    """
    for start in range(0, len(jobs), window):
        yield from sorted(
            jobs[start : start + window], key=lambda job: len(job.prompt)
        )


def _load(path: str, size: int) -> _Picture:
    about = check_picture(path)
    return _Picture(load_image(path, size), about.st_size, about.st_mtime_ns)


def check_picture(path: str) -> os.stat_result:
    """Refuse what would block; returns size and time of the file.

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
        read_image(path)  # its error names what to give
        raise


def _answered(
    job: Job, picture: _Picture, generation: GenerationRequest
) -> dict[str, Any]:
    if generation.error is not None:
        return failed(job, generation.error)
    return dict(
        image=job.image,
        prompt=job.prompt,
        caption=generation.answer().text,
        finished=generation.finish_reason == 'stop',
        tokens=len(generation.token_ids),
        bytes=picture.bytes,
        modified_ns=picture.modified_ns,
    )


def failed(job: Job, error: Exception) -> dict[str, Any]:
    """Fields of the row of a picture that could not be answered."""
    return dict(image=job.image, prompt=job.prompt, error=one_line(error))
