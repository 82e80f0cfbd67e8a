# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Chunks of work for one worker in this process, or for actors of Ray.

Actors of Ray Core, not Ray Data: the chunks come from a generator of this
process, such as the claims of a ledger, one by one as actors get free. Ray
Data needs all of its input at the start.

An actor has one chunk at a time, so the memory and what a stop loses are
limited. The chunk of an actor that ends is given to another one. Only this
process stores results, so each is stored once or not at all.
"""

import itertools
import logging
import math
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from mmengine.logging import print_log

import minigpt4

from ..utils.errors import one_line
from .actor import PREFIX, ActorFailure, ActorStart, WorkerActor, WorkerMaker
from .cluster import Cluster, current_cluster

_MAX_ENDS = 3  # of actors on one chunk, or of all actors without a result
_WAIT_SECONDS = 1.0
_REPORT_SECONDS = 30.0  # without any actor
_AHEAD = 2  # finished chunks for each actor that may wait for an earlier one


class ActorError(ValueError):
    """An actor cannot do its work."""


class _RemoteTraceback(Exception):
    """Shows the traceback of an actor with ``--debug``."""


def run_chunks(
    make: WorkerMaker, chunks: Iterable[Any], ordered: bool = False
) -> Iterator[tuple[Any, Any]]:
    """Run a worker on chunks: here, or on the actors of ``--ray``.

    Args:
        make: Makes the worker, a function of a chunk to its results. It is
            called now; with ``--ray`` it is pickled and called once in each
            actor, when there is a chunk.
        chunks: The chunks. The next one is taken when it can be worked on.
        ordered: Whether the results come in the order of the chunks.

    Returns:
        An iterator over each result with its chunk.

    Raises:
        ActorError: An actor cannot make its worker, its worker failed, or
            actors ended again and again.
    """
    cluster = current_cluster()
    if cluster is not None:
        return _run_on_actors(cluster, make, iter(chunks), ordered)
    worker = make()
    return ((chunk, result) for chunk in chunks for result in worker(chunk))


@dataclass
class _Job:
    """A chunk, its number, and how many actors ended while they had it."""

    number: int
    chunk: Any
    ends: int = 0


class _Finished(NamedTuple):
    """What an actor gave for a chunk."""

    job: _Job
    results: list[Any]
    failure: ActorFailure | None


def _run_on_actors(
    cluster: Cluster, make: WorkerMaker, chunks: Iterator[Any], ordered: bool
) -> Iterator[tuple[Any, Any]]:
    head = list(itertools.islice(chunks, cluster.plan.number))
    if not head:
        return
    jobs = itertools.starmap(_Job, enumerate(itertools.chain(head, chunks)))
    with _Actors(cluster, make, len(head)) as actors:  # none without a chunk
        limit = _AHEAD * len(head) if ordered else math.inf
        waiting: dict[int, _Finished] = {}  # for an earlier one
        following, taken, more = 0, 0, True
        while more or actors.working or waiting:
            while more and actors.free and taken - following < limit:
                job = next(jobs, None)
                more = job is not None
                if job is not None:
                    taken += 1
                    actors.submit(job)
            for finished in actors.wait():
                waiting[finished.job.number] = finished
            numbers = [*waiting]
            if ordered:
                numbers = list(
                    itertools.takewhile(
                        waiting.__contains__, itertools.count(following)
                    )
                )
            following += len(numbers)
            for number in numbers:
                job, results, failure = waiting.pop(number)
                for result in results:
                    yield job.chunk, result
                if failure is not None:
                    raise actors.error(failure)


class _Actors:
    """The actors of one call of :func:`run_chunks`; a context manager.

    Args:
        cluster: The cluster.
        make: Makes the worker of each.
        number: How many.
    """

    def __init__(
        self, cluster: Cluster, make: WorkerMaker, number: int
    ) -> None:
        self._ray, self._plan = cluster
        self._class = self._ray.remote(WorkerActor).options(
            num_cpus=self._plan.cpus,
            num_gpus=self._plan.gpus,
            scheduling_strategy='SPREAD',
        )
        self._given = self._ray.put(
            ActorStart(
                make,
                self._plan.cpus,
                os.getcwd(),
                {k: v for k, v in os.environ.items() if k.startswith(PREFIX)},
                minigpt4.__version__,
            )
        )
        self._free: list[Any] = []
        # the call of each other actor: its job, or None while it starts
        self._calls: dict[Any, tuple[Any, _Job | None]] = {}
        self._again: deque[_Job] = deque()  # of actors that ended
        self._ends = 0  # actors that ended since the last result
        self._since = time.monotonic()
        self._reported = False
        self._number = number

    def __enter__(self) -> '_Actors':
        for _ in range(self._number):
            self._start()
        return self

    def __exit__(self, *_: object) -> None:
        for actor in [*self._free, *(a for a, _ in self._calls.values())]:
            self._ray.kill(actor)

    @property
    def free(self) -> bool:
        """Whether an actor has nothing to do."""
        return bool(self._free)

    @property
    def working(self) -> bool:
        """Whether a chunk has no results yet."""
        jobs = (job for _, job in self._calls.values())
        return bool(self._again) or any(job is not None for job in jobs)

    def submit(self, job: _Job) -> None:
        """Give a chunk to a free actor."""
        actor = self._free.pop()
        self._calls[actor.run.remote(job.chunk)] = actor, job

    def wait(self) -> Iterator[_Finished]:
        """Wait for a moment; yield what has finished.

        Raises:
            ActorError: Actors cannot start, or end again and again.
        """
        if not self._calls:  # all work is done
            return
        calls, _ = self._ray.wait([*self._calls], timeout=_WAIT_SECONDS)
        for call in calls:
            actor, job = self._calls.pop(call)
            try:
                outcome = self._ray.get(call)
            except self._ray.exceptions.RayTaskError as error:
                raise ActorError(
                    f'an actor failed ({one_line(error.cause)}); all machines '
                    'need the same environment.'
                ) from error
            except self._ray.exceptions.RayError as error:
                self._replace(actor, job, error)
                continue
            self._free.append(actor)
            if job is not None:
                self._ends = 0
                yield _Finished(job, *outcome)
            elif outcome is not None:
                raise self.error(outcome)
        while self._again and self._free:
            self.submit(self._again.popleft())
        self._report_waiting()

    def error(self, failure: ActorFailure) -> ActorError:
        """The error of a failure; names the machine if there are several."""
        message = failure.message
        if self._plan.machines > 1:
            message = f'{failure.host}: {message}'
        error = ActorError(message)
        error.__cause__ = _RemoteTraceback(f'\n{failure.traceback}')
        return error

    def _start(self) -> None:
        actor = self._class.remote()
        self._calls[actor.start.remote(self._given)] = actor, None

    def _replace(self, actor: Any, job: _Job | None, error: Exception) -> None:
        """Start another actor in place of one that ended."""
        self._ray.kill(actor)  # its machine may only be out of reach
        self._ends += 1
        if job is not None:
            job.ends += 1
            self._again.append(job)
        if (
            self._ends >= _MAX_ENDS * self._number
            or job is not None
            and job.ends >= _MAX_ENDS
        ):
            raise ActorError(
                f'actors end again and again, at last: {_reason(error)}; '
                'their machines may have too little memory for the model.'
            ) from error
        print_log(
            'an actor ended; its work is given to another one '
            f'({_reason(error)})',
            'current',
            level=logging.WARNING,
        )
        self._start()

    def _report_waiting(self) -> None:
        """Say why nothing happens where no actor has started for long."""
        if self._reported or self._free or self.working:
            self._reported = True
        elif time.monotonic() - self._since > _REPORT_SECONDS:
            self._reported = True
            print_log(
                f'no actor is ready after {_REPORT_SECONDS:.0f} s: the model '
                'is loaded, or other programs use the cluster (each actor '
                f'needs {self._plan.cpus} CPUs and {self._plan.gpus} GPUs; '
                '"ray status" shows what is free)',
                'current',
                level=logging.WARNING,
            )


def _reason(error: Exception) -> str:
    """Why an actor ended, without the identifiers of Ray."""
    return one_line(error).rstrip('.')
