# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Reviews decide which images are exported, and with which text."""

import pytest

from minigpt4.curation.history import History
from minigpt4.curation.ledger import LedgerImage
from minigpt4.curation.reviews import Review
from minigpt4.curation.selection import draft_of, select_images


def review(decision, reviewer='ann', text='The draft.', created=1.0):
    return Review(1, 'digest', reviewer, decision, text, created=created)


def history(*reviews, number=1, final='The draft.', dropped=None):
    image = LedgerImage(number, f'd{number}', f'/i/{number}.jpg', {})
    texts = dict(describe='The draft.')
    return History(image, texts, {}, final, dropped, list(reviews))


def texts(selection):
    return [row.text for row in selection.rows]


@pytest.mark.parametrize(
    ('reviews', 'agree', 'expected'),
    [
        ([review('accept')], 'all', 'The draft.'),
        ([review('edit', text='Mine.')], 'all', 'Mine.'),
        ([review('reject')], 'any', 'rejected'),
        ([review('accept'), review('reject', 'bob')], 'all', 'disagreement'),
        ([review('accept'), review('reject', 'bob')], 'any', 'The draft.'),
        (
            [review('edit', text='A.', created=2), review('accept', 'bob')],
            'all',
            'A.',
        ),
        (
            [
                review('edit', text='Late.', created=3),
                review('edit', 'bob', text='Early.', created=2),
            ],
            'all',
            'Late.',
        ),
        ([review('edit', text=' \n')], 'all', 'empty text'),
    ],
)
def test_reviews_decide(reviews, agree, expected):
    found = select_images([history(*reviews)], agree=agree)
    if found.rows:
        assert texts(found) == [expected] and not found.omitted
    else:
        assert found.omitted == {expected: 1}


def test_different_accepted_texts_and_overruled_reviewers_are_counted():
    found = select_images(
        [
            history(review('accept'), review('edit', 'bob', text='B.')),
            history(review('accept'), review('reject', 'bob'), number=2),
            history(review('accept'), review('accept', 'bob'), number=3),
        ],
        agree='any',
    )
    assert texts(found) == ['B.', 'The draft.', 'The draft.']
    assert found.texts_differ == 1 and found.overruled == 1
    assert [row.num_reviewers for row in found.rows] == [2, 2, 2]


def test_images_without_review_are_exported_if_there_is_no_review():
    pair = [history(), history(number=2)]
    assert len(select_images(pair).rows) == 2
    assert not select_images(pair).reviewed_only
    reviewed = [history(review('reject')), history(number=2)]
    found = select_images(reviewed)
    assert found.reviewed_only and not found.rows
    assert found.omitted == {'rejected': 1, 'not reviewed': 1}
    assert len(select_images(reviewed, unreviewed=True).rows) == 1


def test_dropped_and_unfinished_images_are_not_exported():
    found = select_images(
        [history(final=None, dropped='length'), history(final=None)],
        unreviewed=True,
    )
    assert found.omitted == {'dropped': 1, 'no result': 1}


def test_the_draft_is_the_text_before_the_repair():
    found = history()
    assert draft_of(found) == 'The draft.'
    longer = dict(found.texts, repair='Repaired.')
    longer['continue'] = 'The draft. More.'
    assert draft_of(found._replace(texts=longer)) == 'The draft. More.'
