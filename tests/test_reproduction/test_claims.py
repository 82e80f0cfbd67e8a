# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Verdicts about the claims of the paper."""

import pytest

from minigpt4.reproduction.claims import Claim, compare_claim


def verdict(change, *pairs):
    claim = Claim('', '', '', 'before', 'after', 'x', change)
    scores = {}
    for seed, (before, after) in enumerate(pairs, 1):
        scores['before', seed] = {'x': before}
        scores['after', seed] = {'x': after}
    return compare_claim(claim, scores, range(1, len(pairs) + 1))


@pytest.mark.parametrize(
    ('change', 'text'),
    [
        ('up', 'agrees'),
        ('down', 'disagrees'),
        ('same', 'disagrees'),
        ('not up', 'disagrees'),
    ],
)
def test_a_clear_rise(change, text):
    found = verdict(change, (0.2, 0.5), (0.3, 0.61), (0.25, 0.54))
    assert found.text == text
    assert found.difference.value == pytest.approx(0.3)
    assert found.before.value == pytest.approx(0.25)
    assert found.after.value == pytest.approx(0.55)


@pytest.mark.parametrize(
    ('change', 'text'),
    [
        ('up', 'disagrees'),
        ('down', 'agrees'),
        ('same', 'disagrees'),
        ('not up', 'agrees'),
    ],
)
def test_a_clear_fall(change, text):
    assert verdict(change, (0.5, 0.2), (0.6, 0.31)).text == text


@pytest.mark.parametrize(
    ('change', 'text'),
    [
        ('up', 'not decided'),
        ('down', 'not decided'),
        ('same', 'agrees'),
        ('not up', 'agrees'),
    ],
)
def test_hardly_any_change(change, text):
    pairs = (0.5, 0.501), (0.6, 0.599), (0.55, 0.55)
    assert verdict(change, *pairs).text == text


@pytest.mark.parametrize('change', ['up', 'down', 'same', 'not up'])
def test_seeds_that_differ_decide_nothing(change):
    assert verdict(change, (0.2, 0.9), (0.9, 0.2)).text == 'not decided'


def test_a_small_rise_that_may_be_a_large_one_decides_nothing():
    # 0.05 with 4.303 * 0.02 / sqrt(3): 0.0003 to 0.0997
    pairs = (0.5, 0.53), (0.5, 0.57), (0.5, 0.55)
    assert verdict('not up', *pairs).text == 'not decided'


@pytest.mark.parametrize('change', ['same', 'not up'])
def test_models_that_cannot_do_the_task_decide_nothing(change):
    pairs = (0.0, 0.0), (0.0, 0.0), (0.0, 0.0)
    assert verdict(change, *pairs).text == 'not decided'
    pairs = (0.04, 0.0), (0.04, 0.0), (0.03, 0.0)
    assert verdict(change, *pairs).text == 'not decided'
    # one of both can
    assert verdict('not up', (0.9, 0.0), (0.91, 0.0)).text == 'agrees'


@pytest.mark.parametrize('change', ['up', 'down', 'same', 'not up'])
def test_equal_differences_of_one_record_decide_nothing(change):
    found = verdict(change, (0.0, 0.002), (0.0, 0.002))
    assert found.text == 'not decided'
    assert found.difference.low == pytest.approx(-0.008)
    assert found.difference.high == pytest.approx(0.012)


def test_one_seed_decides_nothing():
    found = verdict('up', (0.1, 0.9))
    assert found.text == 'not decided'
    assert found.difference.value == pytest.approx(0.8)


def test_a_seed_without_both_trainings_does_not_count():
    claim = Claim('', '', '', 'before', 'after', 'x', 'up')
    scores = {('before', 1): {'x': 0.1}, ('after', 2): {'x': 0.9}}
    assert compare_claim(claim, scores, [1, 2]) is None


def test_a_score_that_is_not_defined_does_not_count():
    claim = Claim('', '', '', 'before', 'after', 'x', 'up')
    scores = {('before', 1): {'x': 0.1}, ('after', 1): {'y': 0.9}}
    assert compare_claim(claim, scores, [1]) is None


@pytest.mark.parametrize('change', ['same', 'not up'])
def test_models_without_room_to_differ_decide_nothing(change):
    pairs = (0.97, 0.98), (0.98, 0.98), (0.98, 0.99)
    assert verdict(change, *pairs).text == 'not decided'
    pairs = (0.94, 0.97), (0.94, 0.97), (0.94, 0.97)
    assert verdict(change, *pairs).text == 'agrees'
    # one of both is far below
    assert verdict('not up', (0.97, 0.5), (0.98, 0.52)).text == 'agrees'
    # numbers of words are no rates
    pairs = (30.0, 30.01), (30.0, 30.0), (30.0, 30.01)
    assert verdict(change, *pairs).text == 'agrees'
