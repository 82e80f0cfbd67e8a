# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""POPE's questions, answers and scores."""

import pytest

from minigpt4.harness.yes_no import (
    object_questions,
    read_answer,
    yes_no_scores,
)

TRUTH = {
    '1': ['dog', 'cat'],
    '2': ['cat', 'apple'],
    '3': ['cat', 'apple', 'tie'],
    '4': [],
}


@pytest.mark.parametrize('kind', ['random', 'popular', 'adversarial'])
def test_half_of_the_questions_are_about_objects_of_the_image(kind):
    rows = object_questions(TRUTH, kind)
    assert [r['answer'] for r in rows] == ['yes', 'no'] * (len(rows) // 2)
    for row in rows:
        name = row['question'].split()[3]
        assert (name in TRUTH[row['image_id']]) == (row['answer'] == 'yes')
    assert [r['image_id'] for r in rows] == ['1'] * 4 + ['2'] * 4 + ['3'] * 2
    assert rows == object_questions(TRUTH, kind), 'the seed decides'


def test_absent_objects_are_popular_or_seen_together():
    def absent(kind, image):
        return [
            row['question']
            for row in object_questions(TRUTH, kind)
            if row['image_id'] == image and row['answer'] == 'no'
        ]

    # apple is in 2 images, dog and tie in 1
    apple, tie = (
        'Is there an apple in the image?',
        'Is there a tie in the image?',
    )
    assert absent('popular', '1') == [apple, tie]
    # with cat or apple: tie 2 times, dog once
    assert absent('adversarial', '2')[0] == tie
    with pytest.raises(ValueError, match="negatives is 'all'"):
        object_questions(TRUTH, 'all')


@pytest.mark.parametrize(
    'text, answer',
    [
        ('Yes', 'yes'),
        ('No', 'no'),
        ('no.', 'no'),
        ('No, there is none.', 'no'),
        ('There is not a dog in it', 'no'),
        ('Yes. There is no cat.', 'yes'),
        ('A notable dog', 'yes'),
        ('', ''),
    ],
)
def test_read_answer(text, answer):
    assert read_answer(text) == answer


def test_scores():
    answers = [('yes', 'yes')] * 3 + [('yes', 'no')] + [('no', 'yes')] * 2
    answers += [('no', 'no')] * 4
    assert yes_no_scores(answers) == pytest.approx(
        dict(accuracy=0.7, precision=0.6, recall=0.75, f1=2 / 3, yes_ratio=0.5)
    )
    answers[2], answers[6] = ('yes', ''), ('no', '')
    assert yes_no_scores(answers) == pytest.approx(
        dict(accuracy=0.5, precision=0.5, recall=0.5, f1=0.5, yes_ratio=0.4)
    )
    assert set(yes_no_scores([]).values()) == {0.0}
