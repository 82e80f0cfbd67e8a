# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Cohen's kappa."""

import pytest

from minigpt4.evaluation.kappa import cohens_kappa


def test_the_example_of_two_raters():
    # 20 and 15 equal of 50: observed 0.7, by chance 0.5
    pairs = (
        [('yes', 'yes')] * 20
        + [('yes', 'no')] * 5
        + [('no', 'yes')] * 10
        + [('no', 'no')] * 15
    )
    assert cohens_kappa(pairs) == pytest.approx(0.4)


def test_limits():
    assert cohens_kappa([('a', 'a'), ('b', 'b')]) == 1
    assert cohens_kappa([('a', 'b'), ('b', 'a')]) == -1
    assert cohens_kappa([('a', 'a'), ('a', 'b')]) == 0
    assert cohens_kappa([('a', 'a')] * 3) is None
    assert cohens_kappa([]) is None
