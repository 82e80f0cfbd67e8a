# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Answers to many prompts, in this process or on the actors of ``--ray``."""

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from ..actors.chunks import run_chunks
from ..actors.cluster import current_cluster
from ..generation.sampling_params import SamplingParams
from ..models import MiniGPT4
from ..utils.errors import one_line
from .batch import CaptionTask, TaskAnswer, answer_tasks

CHUNK = 64  # tasks, at least; some failures in succession end a run
_CHUNK_PER_SLOT = 8


def answer_many(
    load: Callable[[], MiniGPT4],
    tasks: Iterable[CaptionTask],
    slots: int,
    workers: int,
    settings: dict[str, Any],
    reproducible: bool = False,
) -> Iterator[list[TaskAnswer]]:
    """Answer prompts, as :func:`~.batch.answer_tasks`; load the model first.

    With ``--ray`` each actor loads the model and answers chunks of tasks. The
    engine begins each chunk without a request, so the batches of a chunk do
    not depend on the other chunks.

    Args:
        load: Loads the model, now; with ``--ray`` in each actor.
        tasks: What to answer; the next ones are taken when there is room.
        slots: Requests that are generated at the same time.
        workers: Threads that decode images.
        settings: Sampling parameters.
        reproducible: Whether this process too works in chunks, and free
            slots wait for images, so that all runs compute the same batches
            and give the same bits, with any number of actors.

    Returns:
        An iterator over lists: the tasks that ended in one step, in any
        order.

    Raises:
        ValueError: The model or a sampling parameter cannot be used.
        OSError: A file of the model cannot be read.
        ModelFailureError: The model fails on every request.
    """
    make = functools.partial(
        _make_answerer, load, slots, workers, settings, reproducible
    )
    chunks: Iterable[Any] = [tasks]  # the engine is never empty in between
    remote = current_cluster() is not None
    if remote or reproducible:
        chunks = chunks_of(tasks, max(CHUNK, _CHUNK_PER_SLOT * slots))
    if not remote:
        return (answers for _, answers in run_chunks(make, chunks))
    return (
        [answer._replace(task=chunk[answer.task.id]) for answer in answers]
        for chunk, answers in run_chunks(
            functools.partial(_make_remote, make), chunks
        )
    )


def chunks_of(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Yield lists of ``size`` items; the last one may be shorter."""
    remaining = iter(items)
    while chunk := list(itertools.islice(remaining, size)):
        yield chunk


def _make_answerer(
    load: Callable[[], MiniGPT4],
    slots: int,
    workers: int,
    settings: dict[str, Any],
    wait_for_images: bool,
) -> Callable[[Iterable[CaptionTask]], Iterator[list[TaskAnswer]]]:
    model = load()
    SamplingParams.of(model.generation, settings)

    def answer(tasks: Iterable[CaptionTask]) -> Iterator[list[TaskAnswer]]:
        return answer_tasks(
            model, tasks, slots, workers, settings, wait_for_images
        )

    return answer


def _make_remote(
    make: Callable[[], Callable[..., Iterator[list[TaskAnswer]]]],
) -> Callable[[Sequence[CaptionTask]], Iterator[list[Any]]]:
    """Make a worker whose results are small, and can be pickled.

    Each task is replaced by one with its place in the chunk, and each error
    by its message.
    """
    answer = make()

    def run(tasks: Sequence[CaptionTask]) -> Iterator[list[Any]]:
        places = {id(task): place for place, task in enumerate(tasks)}
        for answers in answer(tasks):
            yield [
                a._replace(
                    task=CaptionTask('', '', id=places[id(a.task)]),
                    error=a.error and ValueError(one_line(a.error)),
                )
                for a in answers
            ]

    return run
