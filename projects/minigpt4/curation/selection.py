# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Which images of a curation are exported, with which text.

A review counts while the text under review is still the image's text. Where
any image has such a review, images without one are not exported unless that
is requested; where no image has one, all are.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Literal, NamedTuple

from .history import History
from .ledger import LedgerImage
from .reviews import Review

AgreeRule = Literal['all', 'any']
# why an image is not exported, in the order of the tables
REASONS = {
    'dropped': 'dropped by a rule',
    'no result': 'without a result of every step',
    'rejected': 'rejected in review',
    'disagreement': 'accepted by one reviewer, rejected by another',
    'not reviewed': 'not reviewed',
    'empty text': 'an empty text',
}


class SelectedImage(NamedTuple):
    """An image that is exported.

    Attributes:
        image: The image.
        text: The text to train on.
        draft: The text before the repair.
        decision: ``'accept'``, ``'edit'`` or ``'none'`` (no review).
        num_reviewers: How many persons reviewed the text.
    """

    image: LedgerImage
    text: str
    draft: str
    decision: str
    num_reviewers: int


class Selection(NamedTuple):
    """The images to export and what became of the others.

    Attributes:
        rows: The images to export, in the order of the ledger.
        omitted: Number of the other images by reason, of :data:`REASONS`.
        reviewed_only: Whether images without review are not exported.
        texts_differ: Images that several reviewers accept with different
            texts; the last edit is exported.
        overruled: Images that one reviewer rejects and that are exported
            because another accepts them.
    """

    rows: list[SelectedImage]
    omitted: dict[str, int]
    reviewed_only: bool
    texts_differ: int
    overruled: int


def draft_of(history: History) -> str:
    """Return the text of the model before the repair."""
    for step in ('continue', 'describe'):
        if step in history.texts:
            return history.texts[step]
    return next(iter(history.texts.values()), '')


def select_images(
    found: Iterable[History],
    unreviewed: bool = False,
    agree: AgreeRule = 'all',
) -> Selection:
    """Select the images to export.

    Args:
        found: The histories of all images.
        unreviewed: Whether images without review are exported too.
        agree: Whether ``'all'`` reviewers of an image must accept it, or
            ``'any'`` of them.
    """
    rows: list[SelectedImage] = []
    omitted: Counter[str] = Counter()
    texts_differ = overruled = 0
    any_review = False
    for history in found:
        reviews = history.reviews
        any_review |= bool(reviews)
        accepted = [r for r in reviews if r.decision in ('accept', 'edit')]
        reason = _reason(history, reviews, accepted, agree)
        if reason is not None:
            omitted[reason] += 1
            continue
        decision, text = 'none', history.final or ''
        if accepted:
            decision, text = _accepted_text(history, accepted)
            texts_differ += len({_text(history, r) for r in accepted}) > 1
            overruled += len(accepted) < len(reviews)
        if not text.strip():
            omitted['empty text'] += 1
            continue
        rows.append(
            SelectedImage(
                history.image, text, draft_of(history), decision, len(reviews)
            )
        )
    reviewed_only = any_review and not unreviewed
    if reviewed_only:
        without = [row for row in rows if row.decision == 'none']
        rows = [row for row in rows if row.decision != 'none']
        omitted['not reviewed'] += len(without)
    counts = {r: omitted[r] for r in REASONS if omitted[r]}
    return Selection(rows, counts, reviewed_only, texts_differ, overruled)


def _reason(
    history: History,
    reviews: list[Review],
    accepted: list[Review],
    agree: AgreeRule,
) -> str | None:
    """Return why an image is not exported; None if it may be."""
    if history.dropped is not None:
        return 'dropped'
    if history.final is None:
        return 'no result'
    if reviews and not accepted:
        return 'rejected'
    if agree == 'all' and len(accepted) < len(reviews):
        return 'disagreement'
    return None


def _text(history: History, review: Review) -> str:
    return review.text if review.decision == 'edit' else history.final or ''


def _accepted_text(
    history: History, accepted: list[Review]
) -> tuple[str, str]:
    """Return decision and text: the last edit, else the text as it is."""
    edits = [r for r in accepted if r.decision == 'edit']
    if not edits:
        return 'accept', history.final or ''
    return 'edit', max(edits, key=lambda r: (r.created, r.reviewer)).text
