# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""What each image went through: texts, details and reviews by step."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from .ledger import Ledger, LedgerImage, Review
from .pipeline import PlannedStep


class History(NamedTuple):
    """An image with the results of all steps.

    Attributes:
        image: The image.
        texts: The text of each step that has a result.
        details: The details of each such result.
        final: The text after the last step; '' if it has none.
        dropped: The rule that dropped the image; None if none did.
        reviews: All reviews of the image.
    """

    image: LedgerImage
    texts: dict[str, str]
    details: dict[str, dict[str, Any]]
    final: str
    dropped: str | None
    reviews: list[Review]


def histories(
    ledger: Ledger, planned: Sequence[PlannedStep]
) -> Iterator[History]:
    """Iterate over the images in their order."""
    results = [
        {r.image: r for r in ledger.results(step.number)} for step in planned
    ]
    reviews: dict[int, list[Review]] = {}
    for review in ledger.reviews():
        reviews.setdefault(review.image, []).append(review)
    for image in ledger.images():
        texts, details, dropped, final = {}, {}, None, ''
        for number, (step, found) in enumerate(
            zip(planned, results, strict=True)
        ):
            result = found.get(image.id)
            if result is None:
                break
            texts[step.step.name] = result.text
            details[step.step.name] = result.details
            if result.status == 'dropped':
                dropped = result.details['rule']
                break
            if number == len(planned) - 1:
                final = result.text
        yield History(
            image, texts, details, final, dropped, reviews.get(image.id, [])
        )
