# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The checks of a decision before it is stored."""

import pytest

from minigpt4.curation.decisions import check_reviewer, make_review
from minigpt4.curation.ledger import LedgerImage
from minigpt4.curation.review_item import ReviewItem
from minigpt4.curation.reviews import text_digest

ITEM = ReviewItem(LedgerImage(3, 'd', '/x', {}), {}, 'A car.', [])


def test_a_decision_becomes_a_review():
    review = make_review(ITEM, ' Ann ', 'edit', ' A red car.\r\n', ' short ')
    assert review[:6] == (
        3,
        text_digest('A car.'),
        'Ann',
        'edit',
        'A red car.',
        'short',
    )
    assert make_review(ITEM, 'Ann', 'accept').text == 'A car.'
    assert make_review(ITEM, 'Ann', 'reject').text == ''


@pytest.mark.parametrize('decision', ['accept', 'reject', 'none'])
def test_only_an_edit_has_a_new_text(decision):
    for text in (None, '', ' \n', 'A car.', ' A car.\r\n'):
        review = make_review(ITEM, 'Ann', decision, text, undo=True)
        assert review.decision == decision
    with pytest.raises(
        ValueError, match=f'the decision is {decision}, but there is a new'
    ):
        make_review(ITEM, 'Ann', decision, 'A red car.', undo=True)
    with pytest.raises(ValueError, match='the new text is a number'):
        make_review(ITEM, 'Ann', decision, 0, undo=True)


def test_an_edit_that_changes_nothing_is_accepted():
    assert make_review(ITEM, 'Ann', 'edit', 'A car. ').decision == 'accept'


def test_undoing_has_to_be_allowed():
    assert make_review(ITEM, 'Ann', 'none', undo=True).decision == 'none'
    with pytest.raises(ValueError, match='the decision is "none"'):
        make_review(ITEM, 'Ann', 'none')


@pytest.mark.parametrize(
    'name', ['', ' ', '\u200b', 'a\tb', 'x' * 65, 3, None]
)
def test_names_of_reviewers_are_checked(name):
    with pytest.raises(ValueError, match='expected a name of 1 to 64'):
        check_reviewer(name)
    assert check_reviewer('Zoë van Dijk') == 'Zoë van Dijk'
