# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""One text under review: its image, its history and its flags."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from .invented_objects import object_flags
from .ledger import Ledger, LedgerImage
from .reviews import text_digest
from .word_diff import word_diff


class ReviewItem(NamedTuple):
    """A text under review.

    Attributes:
        image: Its image.
        texts: The text after each automatic step, by the step's name.
        text: The text after the last one, which is under review.
        flags: What a person should look at: ``step``, ``reason`` (a short
            id) and ``text`` (one sentence).
    """

    image: LedgerImage
    texts: dict[str, str]
    text: str
    flags: list[dict[str, str]]

    @property
    def digest(self) -> str:
        """The digest by which reviews find the text."""
        return text_digest(self.text)

    def stages(self) -> list[dict[str, Any]]:
        """The steps with the changes that each made, for display.

        Returns:
            ``step`` and ``parts``, of :func:`.word_diff.word_diff`; None for
            a step that changed nothing. The first has its full text.
        """
        stages: list[dict[str, Any]] = []
        previous: str | None = None
        for name, text in self.texts.items():
            parts: list[tuple[str, str]] | None
            if previous is None:
                parts = [('equal', text)]
            else:
                parts = None if text == previous else word_diff(previous, text)
            stages.append(dict(step=name, parts=parts))
            previous = text
        return stages


def load_items(
    ledger: Ledger, steps: dict[str, int], ids: Sequence[int]
) -> list[ReviewItem]:
    """Load texts under review from a ledger.

    Args:
        ledger: The ledger.
        steps: Names and numbers of the automatic steps, in their order.
        ids: Numbers of images. Those without an ``'ok'`` result of the last
            step are skipped.

    Returns:
        The texts, in the order of ``ids``.
    """
    images = {image.id: image for image in ledger.images(ids)}
    results = {
        name: {result.image: result for result in ledger.results(number, ids)}
        for name, number in steps.items()
    }
    last = results[next(reversed(steps))]
    items = []
    for id_ in ids:
        final = last.get(id_)
        if final is None or final.status != 'ok' or id_ not in images:
            continue
        texts: dict[str, str] = {}
        flags: list[dict[str, str]] = []
        for name in steps:
            if (result := results[name].get(id_)) is None:
                continue
            texts[name] = result.text
            for flag in result.details.get('flags') or ():
                flags.append(
                    dict(
                        step=name,
                        reason=str(flag.get('reason', '')),
                        text=str(flag.get('text', '')),
                    )
                )
        image = images[id_]
        flags += [
            dict(step='review', **flag)
            for flag in object_flags(final.text, image.details)
        ]
        items.append(ReviewItem(image, texts, final.text, flags))
    return items
