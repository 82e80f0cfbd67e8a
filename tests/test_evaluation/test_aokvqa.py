# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""A-OKVQA: the choice in an answer, and scores computed by hand."""

import pytest

from minigpt4.evaluation.aokvqa import AOKVQA, AOKVQA_DIRECT, choose

CHOICES = ['hot dog', 'dog', 'the cat', '2']


@pytest.mark.parametrize(
    ('answer', 'expected'),
    [
        ('Dog.', 1),
        ('It is a hot dog on a plate.', 0),
        ('a dog, not a cat', 1),
        ('Cat', 2),
        ('There are two', 3),
        ('(b)', 1),
        ('D', 3),
        ('e', None),
        ('a horse', None),
        ('', None),
    ],
)
def test_an_answer_names_a_choice(answer, expected):
    assert choose(answer, CHOICES) == expected


def test_an_answer_without_words_names_no_choice():
    choices = ['A', 'the', 'b', 'The dog', 'dog']
    assert choose('', choices) is None
    assert choose('.', choices) is None
    assert choose('an', choices) is None
    # the same text, before texts that are equal when normalised
    assert choose('the', choices) == 1
    assert choose('dog', choices) == 4


def test_of_two_equal_choices_both_are_right():
    row = dict(image='a', choices=['x', 'dog', 'dog', 'y'])
    rows = [
        row | dict(answer='dog', truth=dict(index=2)),
        row | dict(log_likelihoods=[-3, -1, -1, -4], truth=dict(index=2)),
        row | dict(answer='x', truth=dict(index=2)),
    ]
    found = AOKVQA.score(rows, {}, 10)['scores']['accuracy']['value']
    assert found == pytest.approx(2 / 3, abs=1e-6)


def test_choices_by_likelihood_and_by_answer():
    row = dict(image='a', choices=CHOICES, truth=dict(index=1))
    rows = [
        row | dict(log_likelihoods=[-3.0, -1.0, -2.0, -4.0]),
        row | dict(log_likelihoods=[-1.0, -1.0, -2.0, -4.0]),
        row | dict(answer='a dog'),
        row | dict(answer='a horse'),
    ]
    scores = AOKVQA.score(rows, {}, 10)['scores']
    assert scores['accuracy']['value'] == 0.5
    assert scores['unknown']['value'] == 0.25


def test_direct_answers():
    truth = dict(answers=['dog', 'dog', *['cat'] * 8])
    rows = [
        dict(image=i, answer=answer, truth=truth)
        for i, answer in enumerate(['A dog', 'cat', 'horse'])
    ]
    found = AOKVQA_DIRECT.score(rows, dict(match='exact'), 10)
    assert found['scores']['accuracy']['value'] == pytest.approx(
        (2 / 3 + 1) / 3, abs=1e-6
    )
