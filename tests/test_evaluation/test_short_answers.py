# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Normalised short answers and their accuracy: by hand and by MMPretrain."""

import itertools
import random

import pytest

from minigpt4.evaluation.short_answers import (
    direct_answer_accuracy,
    matches,
    normalise_answer,
    vqa_accuracy,
)


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('Yes.', 'yes'),
        ('The two dogs', '2 dogs'),
        ('an x-ray', 'x ray'),
        ('3,000', '3000'),
        ('2.5', '2.5'),
        ('none', '0'),
        ('dont', "don't"),
        ('red/white', 'red white'),
        ('red, white', 'red white'),
        ('  on\nthe\ttable ', 'on table'),
        ('', ''),
    ],
)
def test_answers_are_normalised(text, expected):
    assert normalise_answer(text) == expected


def test_normalisation_is_that_of_mmpretrain():
    from mmpretrain.evaluation.metrics.vqa import VQAAcc

    metric = VQAAcc()
    words = (
        "a An The none One ten eleven dog's 3,000 2.5 yes. no, x-ray a/b "
        '(red) '
        "'tis lets let's shes she's dont don't youdve you'dve owsat ow's'at "
        "somebody'd somebodyd yall'll y'allll Idve U.S.A. , . ? ! ; - É ß"
    ).split()
    rng = random.Random(0)
    texts = [
        separator.join(rng.choices(words, k=rng.randint(1, 5)))
        for separator, _ in itertools.product((' ', '', '\n', '.'), range(500))
    ]
    for text in [*words, *texts, 'a.' * 40]:
        assert normalise_answer(text) == metric._process_answer(text), text


@pytest.mark.parametrize(
    ('right', 'expected'),
    # of ten annotators; leave-one-out: with 3 of 10, 3 annotators see 2 of
    # the others and 7 see 3
    [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)],
)
def test_vqa_accuracy_leaves_one_annotator_out(right, expected):
    truths = ['dog'] * right + ['cat'] * (10 - right)
    assert vqa_accuracy('Dog.', truths) == pytest.approx(expected)


def test_direct_answers_count_three_annotators():
    truths = ['dog', 'dog', 'a dog', *['cat'] * 7]
    assert direct_answer_accuracy('dog', truths, 'literal') == 2 / 3
    assert direct_answer_accuracy('dog', truths) == 1
    assert direct_answer_accuracy('Dog', truths, 'literal') == 0


def test_a_match_is_equal_or_contained():
    assert not matches('It is a brown dog.', 'brown dog')
    assert matches('It is a brown dog.', 'brown dog', 'contains')
    assert not matches('It is a hotdog.', 'dog', 'contains')
    assert not matches('anything', '', 'contains')
    with pytest.raises(ValueError, match="expected 'exact' or 'contains'"):
        matches('a', 'b', 'similar')
