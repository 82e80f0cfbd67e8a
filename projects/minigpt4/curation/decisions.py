# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Check a person's decision before it is stored."""

from typing import Any

from ..prompts.text_validation import check_text, is_blank
from ..utils.errors import short_json
from .review_item import ReviewItem
from .reviews import Review

KINDS = ('accept', 'edit', 'reject')
MAX_NAME = 64  # characters of a reviewer's name
MAX_TEXT = 20_000  # characters of an edited text
MAX_NOTE = 2_000


def check_reviewer(name: Any) -> str:
    """Check the name of a reviewer; returns it without outer white space.

    Raises:
        ValueError: It is empty, too long, or has control characters.
    """
    if (
        not isinstance(name, str)
        or is_blank(name)
        or len(name.strip()) > MAX_NAME
        or not name.strip().isprintable()
    ):
        raise ValueError(
            f'the reviewer is {short_json(name)}; expected a name of 1 to '
            f'{MAX_NAME} characters.'
        )
    return name.strip()


def is_new_text(text: Any, old: str) -> bool:
    """Whether something else than the text under review was entered.

    Args:
        text: What was entered; nothing and white space are no text.
        old: The text under review.

    Raises:
        ValueError: It is not a text.
    """
    if text is None:
        return False
    text = check_text(text, 'the new text', allow_empty=True)
    return not is_blank(text) and text.strip() != old.strip()


def make_review(
    item: ReviewItem,
    reviewer: Any,
    decision: Any,
    text: Any = None,
    note: Any = '',
    undo: bool = False,
) -> Review:
    """Check a decision.

    Args:
        item: The text under review.
        reviewer: Name of the person.
        decision: One of :data:`KINDS`; an edit that changes nothing is
            accepted as ``'accept'``.
        text: The new text of an edit. Other decisions may have the text
            under review here, or none.
        note: A remark.
        undo: Whether ``'none'``, which undoes a decision, is allowed.

    Raises:
        ValueError: One of the values is wrong.
    """
    reviewer = check_reviewer(reviewer)
    kinds = (*KINDS, 'none') if undo else KINDS
    if decision not in kinds:
        raise ValueError(
            f'the decision is {short_json(decision)}; expected one of '
            f'{", ".join(kinds)}.'
        )
    note = check_text(
        '' if note is None else note,
        'the note',
        allow_empty=True,
        max_characters=MAX_NOTE,
    )
    accepted = item.text if decision == 'accept' else ''
    if decision == 'edit':
        if text is None or text == '':
            raise ValueError('the decision is edit, but there is no new text.')
        accepted = check_text(text, 'the new text', max_characters=MAX_TEXT)
        accepted = accepted.strip()
        if accepted == item.text:
            decision = 'accept'
    elif is_new_text(text, item.text):
        raise ValueError(
            f'the decision is {decision}, but there is a new text; write '
            'edit as the decision, or clear the new text.'
        )
    return Review(
        item.image.id, item.digest, reviewer, decision, accepted, note.strip()
    )
