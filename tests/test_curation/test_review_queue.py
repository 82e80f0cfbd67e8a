# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The order of the texts under review, and the decisions on them."""

import pytest
from tests.review_ledger import final_text, make_ledger, step_numbers

from minigpt4.curation.decisions import make_review
from minigpt4.curation.ledger import Ledger, Result
from minigpt4.curation.review_queue import ReviewQueue
from minigpt4.curation.review_settings import ReviewSettings


@pytest.fixture
def ledger(tmp_path):
    with make_ledger(tmp_path, images=False) as opened:
        yield opened


@pytest.fixture
def queue(ledger):
    queue = ReviewQueue(ledger, step_numbers(ledger))
    queue.score_objects()
    return queue


def decide(queue, image, reviewer, decision, text=None):
    review = make_review(
        queue.item(image), reviewer, decision, text, undo=True
    )
    queue.ledger.reviews.add(review)


def test_the_riskiest_text_is_first(queue):
    assert list(queue) == [4, 5, 3, 1, 2, 6]
    assert [queue.risk(i) for i in (4, 5, 3, 1)] == [4.0, 1.5, 1.0, 0.0]
    assert [queue.place(i) for i in (4, 5, 6)] == [1, 2, 6]


def test_weights_change_the_order(ledger):
    settings = ReviewSettings(guard_weight=0, warning_weight=3)
    queue = ReviewQueue(ledger, step_numbers(ledger), settings)
    assert list(queue)[0] == 3
    assert queue.risk(4) == 0


def test_decided_texts_are_skipped(queue):
    assert queue.next('ann') == 4
    decide(queue, 4, 'ann', 'accept')
    decide(queue, 3, 'ann', 'reject')
    assert queue.next('ann', after=4) == 5
    assert queue.next('ann', after=5) == 1
    assert queue.next('ben') == 4  # decides on its own
    assert queue.next('ann', 'decided') == 4
    assert queue.next('ann', 'decided', after=4) == 3
    assert queue.next('ann', 'decided', after=3) is None
    assert queue.next('ann', 'all', after=3, forward=False) == 5
    assert queue.next('ann', 'all', after=6) is None
    decide(queue, 4, 'ann', 'none')  # undone
    assert queue.next('ann') == 4


def test_two_reviewers_who_share_the_work_get_different_texts(queue):
    assert queue.next('ann', 'open', hold=True) == 4
    assert queue.next('ben', 'open', hold=True) == 5
    decide(queue, 4, 'ann', 'accept')
    assert queue.next('ann', 'open', after=4, hold=True) == 3
    assert queue.next('ben', 'open', after=5, hold=True) == 1


def test_progress_counts_decisions_and_agreement(queue):
    for image, one, other in (
        (1, 'accept', 'accept'),
        (2, 'reject', 'reject'),
        (3, 'accept', 'reject'),
    ):
        decide(queue, image, 'ann', one)
        decide(queue, image, 'ben', other)
    decide(queue, 4, 'ann', 'edit', 'Another text.')
    progress = queue.progress()
    assert progress['total'] == 6
    assert progress['open'] == 2
    assert progress['disputed'] == 1
    assert progress['reviewers'] == dict(
        ann=dict(accept=2, reject=1, edit=1), ben=dict(accept=1, reject=2)
    )
    (pair,) = progress['agreement']
    assert (pair['both'], pair['equal']) == (3, 2)
    assert pair['kappa'] == pytest.approx(0.4)
    assert queue.next('ann', 'disputed') == 3


def test_decisions_of_another_process_are_seen(queue, tmp_path):
    with Ledger(queue.ledger.path) as other:
        other.reviews.add(make_review(queue.item(4), 'ben', 'accept'))
    assert queue.next('ben') == 5
    assert queue.progress()['open'] == 5


def test_decisions_on_another_text_do_not_count(queue):
    review = make_review(queue.item(4), 'ann', 'accept')
    queue.ledger.reviews.add(review._replace(reviewed='0' * 64))
    assert queue.next('ann') == 4


def test_texts_that_are_added_later_are_found(queue):
    ledger = queue.ledger
    ledger.add_images([('f' * 64, '/new.png', {})])
    flags = [dict(reason='object', text='The repair adds "cat".')]
    steps = step_numbers(ledger)
    ledger.add_results(
        steps['repair'], [Result(7, 'ok', 'New.', dict(flags=flags))]
    )
    ledger.add_results(steps['rules'], [Result(7, 'ok', 'New.', {})])
    queue.refresh()
    assert list(queue) == [4, 7, 5, 3, 1, 2, 6]


def test_dropped_texts_are_not_reviewed(tmp_path):
    with Ledger(tmp_path / 'ledger') as ledger:
        ledger.add_images((f'{i}', f'/{i}', {}) for i in range(3))
        step = ledger.add_step('a', 'rules', {})
        ledger.add_results(
            step,
            [
                Result(1, 'dropped', '', dict(rule='x', flags=[{}])),
                Result(2, 'ok', 'Text.', {}),
                Result(3, 'failed', 'no', {}),
            ],
        )
        queue = ReviewQueue(ledger, dict(rules=step))
        assert list(queue) == [2]
        assert queue.item(1) is None


def test_a_ledger_without_texts_is_refused(tmp_path):
    with Ledger(tmp_path / 'ledger') as ledger:
        step = ledger.add_step('a', 'rules', {})
        with pytest.raises(ValueError, match='no texts to review'):
            ReviewQueue(ledger, dict(rules=step))


def test_the_item_has_history_and_flags(queue):
    item = queue.item(5)
    assert item.text == final_text(5)
    assert list(item.texts) == ['describe', 'continue', 'repair', 'rules']
    assert [flag['text'] for flag in item.flags] == [
        'The text names "car", which the objects of the image do not have.'
    ]
    stages = item.stages()
    assert stages[0]['parts'] == [('equal', 'Image 5 shows a car')]
    assert ('insert', 'red ') in stages[2]['parts']
    assert stages[3] == dict(step='rules', parts=None)
