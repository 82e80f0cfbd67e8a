# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Bootstrap intervals: known cases, and their coverage."""

import numpy as np
import pytest

from minigpt4.evaluation.bootstrap import ratio_interval, ratio_score


def test_equal_images_have_an_interval_of_no_width():
    assert ratio_interval([2, 2, 2], [4, 4, 4]) == (0.5, 0.5)


def test_captions_of_one_image_are_drawn_together():
    # ten captions of one image, all right, are one observation
    low, high = ratio_interval([10, 0], [10, 10])
    assert (low, high) == (0, 1)


def test_the_interval_of_a_mean_has_its_theoretical_width():
    values = np.random.RandomState(0).normal(3, 2, 400)
    low, high = ratio_interval(values, np.ones(400), resamples=4000)
    half = 1.96 * values.std() / 20
    assert low == pytest.approx(values.mean() - half, abs=0.02)
    assert high == pytest.approx(values.mean() + half, abs=0.02)


def test_the_seed_decides():
    values = np.random.RandomState(0).normal(size=30)
    first = ratio_interval(values, np.ones(30), seed=1)
    assert first == ratio_interval(values, np.ones(30), seed=1)
    assert first != ratio_interval(values, np.ones(30), seed=2)


def test_a_score_without_denominator_is_not_defined():
    assert ratio_score([0, 0], [0, 0]) == dict(value=None, interval=None)


def test_draws_without_denominator_are_not_counted():
    low, high = ratio_interval([1, 0], [2, 0])
    assert (low, high) == (0.5, 0.5)
