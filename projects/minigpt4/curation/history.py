# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""What the steps made of each image: the input of review, report, export."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from .ledger import Ledger, LedgerImage, Result
from .pipeline import PlannedStep
from .reviews import Review, text_digest

_READ = 256  # images at a time


class History(NamedTuple):
    """An image with the results of the automatic steps and its reviews.

    Attributes:
        image: The image.
        texts: The text after each step, by its name. Steps without a result
            are missing; so is a step that failed.
        details: The details of each of these results.
        final: The text after the last step; None if a step has dropped the
            image or has no result yet.
        dropped: The rule that dropped the image; None if none did.
        reviews: The last decision of each reviewer on ``final``. Decisions
            on other texts of the image are omitted.
    """

    image: LedgerImage
    texts: dict[str, str]
    details: dict[str, dict[str, Any]]
    final: str | None
    dropped: str | None
    reviews: list[Review]


def histories(
    ledger: Ledger,
    planned: Sequence[PlannedStep],
    after: int = 0,
    limit: int | None = None,
    images: Sequence[int] | None = None,
) -> Iterator[History]:
    """Iterate over the histories of images, in their order.

    No query stays open between two histories, so that the ledger may be
    changed meanwhile.

    Args:
        ledger: The ledger.
        planned: The automatic steps.
        after: Only images of larger numbers; for the next page.
        limit: The most images; None is all.
        images: Numbers of images; None is all.
    """
    left = limit
    while left is None or left > 0:
        number = _READ if left is None else min(_READ, left)
        found = ledger.images(images, after, number)
        yield from _histories(ledger, planned, found)
        if len(found) < number:
            return
        after = found[-1].id
        if left is not None:
            left -= len(found)


def _histories(
    ledger: Ledger, planned: Sequence[PlannedStep], images: list[LedgerImage]
) -> Iterator[History]:
    numbers = [image.id for image in images]
    results: list[tuple[str, dict[int, Result]]] = [
        (
            step.step.name,
            {r.image: r for r in ledger.results(step.number, numbers)},
        )
        for step in planned
    ]
    reviews: dict[int, list[Review]] = {}
    for review in ledger.reviews.latest(numbers):
        reviews.setdefault(review.image, []).append(review)
    for image in images:
        texts: dict[str, str] = {}
        details: dict[str, dict[str, Any]] = {}
        final: str | None = None
        dropped: str | None = None
        for name, by_image in results:
            result = by_image.get(image.id)
            if result is None:
                final = None
                break
            texts[name], details[name] = result.text, result.details
            if result.status == 'dropped':
                final = None
                dropped = str(result.details.get('rule', name))
                break
            final = result.text
        yield History(
            image,
            texts,
            details,
            final,
            dropped,
            _reviews_of(final, reviews.get(image.id, [])),
        )


def _reviews_of(text: str | None, reviews: list[Review]) -> list[Review]:
    if text is None:
        return []
    digest = text_digest(text)
    return [review for review in reviews if review.reviewed == digest]
