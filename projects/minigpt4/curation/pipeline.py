# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Run the steps of a curation on a ledger."""

import functools
import hashlib
import json
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, cast

from ..prompts.text_validation import check_characters
from ..utils.errors import printable
from ..utils.signals import StopRequest
from .ledger import Ledger, LedgerImage, Result

_CLAIMED = 64  # images that a process claims at a time
_FLUSH_SECONDS = 0.5
_RENEW_SECONDS = 60.0
_POLL_SECONDS = 0.5  # while other processes finish a step
_READ = 256  # images at a time


class StepItem(NamedTuple):
    """An image as a step gets it.

    Attributes:
        image: The image.
        text: The text of the step before; empty for the first step.
        details: The details of its result.
    """

    image: LedgerImage
    text: str
    details: dict[str, Any]


class Step(Protocol):
    """A step that runs without a person.

    Attributes:
        name: Of the step, e.g. ``'describe'``.
        settings: What its results depend on, as JSON. What they do not
            depend on (batch sizes, numbers of requests at a time) is not
            here.
    """

    name: str
    settings: dict[str, Any]

    def run(self, items: Iterator[StepItem]) -> Iterator[Result | None]:
        """Yield one result for each item, in any order, as soon as possible.

        A step that waits long for its next result yields None from time to
        time: what it yielded before is stored then, so that a killed process
        loses no answer that was paid for.

        The failure of one item is its result (``'failed'``). An exception
        ends the run; what was yielded before is kept.

        Args:
            items: The items; a step that works on several at a time takes
                the next ones before it yields.
        """


class LedgerStep(Step, Protocol):
    """A step that reads earlier results, e.g. what they cost."""

    def use_ledger(self, ledger: Ledger) -> None:
        """Take the ledger of the run; called before :meth:`run`."""


class ComparingStep(Step, Protocol):
    """A step that compares images with each other.

    It starts when all images have a result, or a failure, of the step
    before.
    """

    def prepare(self, items: Iterable[StepItem], kept: Iterable[int]) -> None:
        """Take note of the other images.

        Args:
            items: All that the step gets, in this run or in others.
            kept: Numbers of images for which it has the result ``'ok'``.
        """


class PlannedStep(NamedTuple):
    """A step with its place in the ledger.

    Attributes:
        step: The step.
        number: Its number in the ledger.
        previous: The number of the step before it; None for the first.
    """

    step: Step
    number: int
    previous: int | None


def plan(ledger: Ledger, steps: Sequence[Step]) -> list[PlannedStep]:
    """Find the numbers of steps in a ledger, adding those that are new.

    The key of a step is a digest of its name and settings and of the key of
    the step before it.

    Args:
        ledger: The ledger.
        steps: The steps, in their order.
    """
    planned: list[PlannedStep] = []
    key = ''
    for step in steps:
        content = json.dumps([key, step.name, step.settings], sort_keys=True)
        key = hashlib.sha256(content.encode()).hexdigest()
        number = ledger.add_step(key, step.name, step.settings)
        previous = planned[-1].number if planned else None
        planned.append(PlannedStep(step, number, previous))
    return planned


class StepCounts(NamedTuple):
    """How far a step is.

    Attributes:
        ok: Images with a text.
        dropped: Images that it dropped.
        failed: Images that failed, and have no other result.
        missing: Images that it gets and has not tried.
    """

    ok: int
    dropped: int
    failed: int
    missing: int


def count(ledger: Ledger, planned: PlannedStep) -> StepCounts:
    """Count the results of a step."""
    found = ledger.counts(planned.number)
    if planned.previous is None:
        total = ledger.num_images
    else:
        total = ledger.counts(planned.previous)['ok']
    return StepCounts(**found, missing=max(0, total - sum(found.values())))


def run_steps(
    ledger: Ledger,
    planned: Sequence[PlannedStep],
    names: Collection[str],
    stop: StopRequest,
    report: Callable[[PlannedStep, int], None] = lambda step, number: None,
) -> None:
    """Run steps one after the other.

    A step that compares images waits until other processes have finished the
    steps before it, and takes over what a process that ended has left.

    Args:
        ledger: The ledger.
        planned: All steps, in their order.
        names: The names of those to run.
        stop: Records a stop signal.
        report: Called with a step and the number of results that were
            stored.

    Raises:
        ValueError: A step that compares images is to run, but not a step
            before it that has images left.
    """
    for index, step in enumerate(planned):
        if step.step.name not in names or stop.signum is not None:
            continue
        if hasattr(step.step, 'prepare'):
            _finish(ledger, planned[:index], names, step, stop, report)
            if stop.signum is not None:
                return
            _prepare(ledger, step)
        run_step(ledger, step, stop, functools.partial(report, step))


def _finish(
    ledger: Ledger,
    before: Sequence[PlannedStep],
    names: Collection[str],
    waiting: PlannedStep,
    stop: StopRequest,
    report: Callable[[PlannedStep, int], None],
) -> None:
    """Complete the steps before one that compares images."""
    while stop.signum is None:
        missing = [s for s in before if count(ledger, s).missing]
        if not missing:
            return
        for step in missing:
            if step.step.name in names:
                left = count(ledger, step).missing
                run_step(
                    ledger,
                    step,
                    stop,
                    functools.partial(report, step),
                    retry=False,
                )
                if stop.signum is not None:
                    return
                claimed = ledger.is_claimed(step.number)
                if not claimed and count(ledger, step).missing == left:
                    raise RuntimeError(
                        f'the step {step.step.name} gives no result for '
                        f'{left} images.'
                    )
            elif not ledger.is_claimed(step.number):
                raise ValueError(
                    f'{waiting.step.name} compares all images, but '
                    f'{count(ledger, step).missing} have no result of '
                    f'{step.step.name}; run {step.step.name} too.'
                )
        if any(count(ledger, s).missing for s in before):
            time.sleep(_POLL_SECONDS)


def _prepare(ledger: Ledger, planned: PlannedStep) -> None:
    """Show a step that compares images all of them."""
    if planned.previous is None:
        raise ValueError(f'{planned.step.name} cannot be the first step.')
    if not count(ledger, planned).missing and not ledger.failures(
        planned.number
    ):
        return
    step = cast(ComparingStep, planned.step)
    step.prepare(
        _all_items(ledger, planned.previous),
        [r.image for r in ledger.results(planned.number) if r.status == 'ok'],
    )


def _all_items(ledger: Ledger, step: int) -> Iterator[StepItem]:
    after = 0
    while images := ledger.images(after=after, limit=_READ):
        after = images[-1].id
        results = {
            r.image: r for r in ledger.results(step, [i.id for i in images])
        }
        for image in images:
            result = results.get(image.id)
            if result is not None and result.status == 'ok':
                yield StepItem(image, result.text, result.details)


def run_step(
    ledger: Ledger,
    planned: PlannedStep,
    stop: StopRequest,
    report: Callable[[int], None] = lambda number: None,
    retry: bool = True,
) -> int:
    """Run a step on all images that it has no result for.

    Results are stored every half second. After a stop signal no further
    images are claimed; those in work are finished and stored.

    Args:
        ledger: The ledger.
        planned: The step.
        stop: Records a stop signal.
        report: Called with the number of results that were stored.
        retry: Whether images that failed are tried again.

    Returns:
        How many results were stored, with failures.
    """
    total = 0
    stored: list[Result] = []
    flushed = time.monotonic()

    def flush() -> None:
        nonlocal total, flushed
        if stored:
            ledger.add_results(planned.number, stored)
            report(len(stored))
            total += len(stored)
            stored.clear()
        flushed = time.monotonic()

    if hasattr(planned.step, 'use_ledger'):
        cast(LedgerStep, planned.step).use_ledger(ledger)
    with _renewed_claims(ledger):
        try:
            for result in planned.step.run(
                _claimed(ledger, planned, stop, retry)
            ):
                if result is not None:
                    stored.append(_storable(result))
                if result is None or _is_due(flushed):
                    flush()
        finally:
            flush()
            ledger.release_claims(planned.number)
    return total


def _storable(result: Result) -> Result:
    """Fail a text with half a character, which no file can hold."""
    if result.status == 'failed':
        return result._replace(text=printable(result.text))
    try:
        check_characters(result.text, 'the text')
    except ValueError as error:
        reason = f'{str(error).partition(";")[0]}; the next run tries again.'
        return result._replace(status='failed', text=reason)
    return result


def _is_due(flushed: float) -> bool:
    return time.monotonic() - flushed > _FLUSH_SECONDS


def _claimed(
    ledger: Ledger, planned: PlannedStep, stop: StopRequest, retry: bool
) -> Iterator[StepItem]:
    """Claim images and yield them, each once."""
    after = 0
    while stop.signum is None:
        found = ledger.claim(
            planned.number, planned.previous, _CLAIMED, after, retry
        )
        if not found:
            return
        for image, result in found:
            if stop.signum is not None:
                return
            after = image.id
            text, details = (
                (result.text, result.details) if result else ('', {})
            )
            yield StepItem(image, text, details)


class _renewed_claims:
    """Context manager that renews the claims in a thread."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _renew(self) -> None:
        while not self._ended.wait(_RENEW_SECONDS):
            self._ledger.renew_claims()
