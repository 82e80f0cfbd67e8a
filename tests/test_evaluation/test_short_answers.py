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


def test_unanimous_answers_are_normalised_or_not():
    # by hand, of the official script: it normalises only if the annotators
    # gave different answers
    unanimous, different = ['yes'] * 10, ['yes'] * 9 + ['Yes!']
    assert vqa_accuracy('Yes.', unanimous) == 1
    assert vqa_accuracy('Yes.', unanimous, normalise='official') == 0
    assert vqa_accuracy('\tyes\n', unanimous, normalise='official') == 1
    for normalise in ('always', 'official'):
        assert vqa_accuracy('Yes.', different, normalise=normalise) == 1
        assert vqa_accuracy('no', unanimous, normalise=normalise) == 0
    # an answer that is changed by the normalisation, and given by all
    stop = ['The STOP'] * 10
    assert vqa_accuracy('The STOP', stop, normalise='official') == 1
    assert vqa_accuracy('stop', stop, normalise='official') == 0
    assert vqa_accuracy('stop', stop) == 1
    # spaces at the ends make no different answers
    spaces = ['yes'] * 9 + [' yes\n']
    assert vqa_accuracy('Yes.', spaces, normalise='official') == 0
    # three of ten, see above: 0.9
    three = ['2'] * 3 + ['3'] * 7
    assert vqa_accuracy('Two', three, normalise='official') == (
        pytest.approx(0.9)
    )
    with pytest.raises(ValueError, match='expected one of always, official'):
        vqa_accuracy('a', ['a'] * 10, normalise='never')


def test_a_contained_answer_without_normalisation():
    truths = ['red bus'] * 10
    options = dict(rule='contains', normalise='official')
    assert vqa_accuracy('It is a red bus here', truths, **options) == 1
    assert vqa_accuracy('It is a red bus.', truths, **options) == 0
