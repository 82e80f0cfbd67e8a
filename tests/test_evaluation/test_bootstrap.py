# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Draws of images: their number, their sums, and the seed."""

import numpy as np
import pytest

from minigpt4.evaluation.bootstrap import percentile_interval, resampled_sums


def test_sums_of_draws_have_the_mean_and_deviation_of_theory():
    values = np.random.RandomState(0).normal(3, 2, (400, 1))
    sums = resampled_sums(values, resamples=4000)
    assert sums.shape == (4000, 1)
    assert sums.mean() == pytest.approx(values.sum(), rel=0.005)
    assert sums.std() == pytest.approx(20 * values.std(), rel=0.05)


def test_all_counts_of_an_image_are_drawn_together():
    sums = resampled_sums(np.array([[1, 10], [0, 0], [2, 20]]), resamples=99)
    assert (sums[:, 1] == 10 * sums[:, 0]).all()


def test_the_seed_decides():
    values = np.random.RandomState(0).normal(size=(30, 2))
    first = resampled_sums(values, seed=1)
    assert (first == resampled_sums(values, seed=1)).all()
    assert (first != resampled_sums(values, seed=2)).any()


def test_the_interval_is_the_middle_part():
    interval = percentile_interval(np.arange(41), 0.9)
    assert interval == pytest.approx((2, 38))
