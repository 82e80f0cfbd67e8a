# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Scores of sums and their intervals: known cases, and their coverage."""

import numpy as np
import pytest

from minigpt4.evaluation.image_sums import ImageSums, SumScore


def score(images, resamples=1000, seed=0, ratio=('top', 'bottom')):
    """The score of ``(name, top, bottom)`` of images."""
    sums = ImageSums(seed, resamples)
    for name, top, bottom in images:
        sums.add(name, top=top, bottom=bottom)
    return sums.scores(dict(score=ratio))['score']


def test_equal_images_have_an_interval_of_no_width():
    found = score([(name, 2, 4) for name in 'abc'])
    assert found == dict(value=0.5, interval=[0.5, 0.5])


def test_captions_of_one_image_are_drawn_together():
    # ten captions of one image, all right, are one observation
    found = score([('a', 1, 1)] * 10 + [('b', 0, 1)] * 10)
    assert found == dict(value=0.5, interval=[0, 1])


def test_the_interval_of_a_mean_has_its_theoretical_width():
    values = np.random.RandomState(0).normal(3, 2, 400)
    found = score([(f'{i}', v, 1) for i, v in enumerate(values)], 4000)
    half = 1.96 * values.std() / 20
    low, high = found['interval']
    assert low == pytest.approx(values.mean() - half, abs=0.02)
    assert high == pytest.approx(values.mean() + half, abs=0.02)


def test_a_score_without_denominator_is_not_defined():
    found = score([('a', 0, 0), ('b', 0, 0)])
    assert found == dict(value=None, interval=None)


def test_draws_without_denominator_are_not_counted():
    found = score([('a', 1, 2), ('b', 0, 0)])
    assert found == dict(value=0.5, interval=[0.5, 0.5])


def test_a_value_without_a_defined_draw_has_no_interval():
    images = [('a', 1, 2), *((f'{i}', 0, 0) for i in range(50))]
    seeds = [score(images, 1, seed)['interval'] for seed in range(20)]
    assert None in seeds and [0.5, 0.5] in seeds


def test_a_score_may_be_another_function_of_the_sums():
    # the square of the sums of two counts: (1 + 2 + 3) ** 2 - (4 + 5 + 6)
    square = SumScore(
        ('top', 'bottom'), lambda sums: sums[..., 0] ** 2 - sums[..., 1]
    )
    images = [('a', 1, 4), ('b', 2, 5), ('c', 3, 6)]
    found = score(images, ratio=square)
    assert found['value'] == 36 - 15
    low, high = found['interval']
    assert low == 9 - 12 and high == 81 - 18
