# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The history of an image: texts by step, reviews of the final text."""

import pytest

from minigpt4.curation.history import histories
from minigpt4.curation.ledger import Result
from minigpt4.curation.pipeline import plan
from minigpt4.curation.reviews import Review, text_digest


@pytest.fixture
def planned(ledger, fixed_texts):
    ledger.add_images((f'd{i}', f'/i/{i}.jpg', {}) for i in range(600))
    planned = plan(
        ledger, [fixed_texts({}, 'first'), fixed_texts({}, 'rules')]
    )
    first, second = (step.number for step in planned)
    ledger.add_results(
        first,
        [
            Result(1, 'ok', 'one', dict(tokens=1)),
            Result(2, 'ok', 'two', dict(tokens=2)),
            Result(3, 'failed', 'no answer', {}),
            Result(4, 'ok', 'four', {}),
            Result(600, 'ok', 'last', {}),
        ],
    )
    ledger.add_results(
        second,
        [
            Result(1, 'ok', 'One.', {}),
            Result(2, 'dropped', 'two', dict(rule='length', reason='short')),
            Result(600, 'ok', 'last', {}),
        ],
    )
    return planned


def test_texts_details_and_the_dropping_rule(ledger, planned):
    found = list(histories(ledger, planned))
    assert [h.image.id for h in found] == list(range(1, 601))
    one, two, three, four = found[:4]
    assert one.texts == dict(first='one', rules='One.')
    assert one.details['first'] == dict(tokens=1)
    assert one.final == 'One.' and one.dropped is None
    assert two.final is None and two.dropped == 'length'
    assert two.texts == dict(first='two', rules='two')
    assert three.texts == {} and three.final is None
    assert four.texts == dict(first='four') and four.final is None
    assert found[-1].final == 'last'


def test_pages_and_single_images(ledger, planned):
    page = list(histories(ledger, planned, after=299, limit=300))
    assert [h.image.id for h in page] == list(range(300, 600))
    chosen = histories(ledger, planned, images=[600, 2])
    assert [h.image.id for h in chosen] == [2, 600]
    assert list(histories(ledger, planned, limit=0)) == []


def test_the_ledger_may_change_between_two_histories(ledger, planned):
    for history in histories(ledger, planned):
        if history.final:
            ledger.reviews.add(
                Review(
                    history.image.id,
                    text_digest(history.final),
                    'ann',
                    'accept',
                    history.final,
                )
            )
    assert len(ledger.reviews.latest()) == 2


def test_only_reviews_of_the_final_text_count(ledger, planned):
    def review(reviewer, decision, of, text=''):
        ledger.reviews.add(
            Review(1, text_digest(of), reviewer, decision, text)
        )

    review('ann', 'reject', 'an older text')
    review('ann', 'reject', 'One.')
    review('ann', 'edit', 'One.', 'One, two.')
    review('ben', 'accept', 'One.', 'One.')
    review('cleo', 'accept', 'One.', 'One.')
    review('cleo', 'none', 'One.')
    (history,) = histories(ledger, planned, images=[1])
    assert [(r.reviewer, r.decision) for r in history.reviews] == [
        ('ann', 'edit'),
        ('ben', 'accept'),
    ]
    assert len(ledger.reviews.latest(1)) == 3
