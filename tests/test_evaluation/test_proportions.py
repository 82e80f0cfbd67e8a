# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Shares with Wilson's interval."""

import pytest

from minigpt4.evaluation.proportions import share


def test_published_intervals():
    # Newcombe 1998, table I: 81 of 263 is 0.2553 to 0.3662
    found = share(81, 263)
    assert found['value'] == pytest.approx(0.30799, abs=1e-5)
    assert found['interval'] == pytest.approx([0.2553, 0.3662], abs=1e-4)
    # 15 of 148: 0.0624 to 0.1605; 0 of 20: 0 to 0.1611
    assert share(15, 148)['interval'] == pytest.approx(
        [0.0624, 0.1605], abs=1e-4
    )
    assert share(0, 20)['interval'] == pytest.approx([0, 0.1611], abs=1e-4)
    assert share(29, 29)['interval'] == pytest.approx([0.8830, 1], abs=1e-4)


def test_a_share_of_nothing():
    assert share(0, 0)['value'] is None
