# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Means over seeds."""

import pytest

from minigpt4.reproduction.seeds import mean_over_seeds


def test_interval_of_three_values():
    mean = mean_over_seeds([1.0, 2.0, 3.0])
    assert mean.value == 2
    assert mean.deviation == 1
    # 4.303 / sqrt(3)
    assert mean.low == pytest.approx(2 - 2.4843, abs=1e-3)
    assert mean.high == pytest.approx(2 + 2.4843, abs=1e-3)


def test_two_values_have_a_wide_interval():
    mean = mean_over_seeds([0.0, 1.0])
    # 12.706 * 0.7071 / sqrt(2)
    assert mean.high - mean.value == pytest.approx(6.353, abs=1e-3)


def test_one_value_has_no_interval():
    assert mean_over_seeds([0.5]) == (0.5, None, None, None)


def test_equal_values():
    assert mean_over_seeds([0.25] * 4) == (0.25, 0.25, 0.25, 0.0)


def test_no_value_is_an_error():
    with pytest.raises(ValueError, match='expected one for each seed'):
        mean_over_seeds([])
