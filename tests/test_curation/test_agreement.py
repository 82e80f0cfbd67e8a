# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Cohen's kappa of two reviewers."""

import pytest

from minigpt4.curation.agreement import (
    agreements,
    by_reviewer,
    cohens_kappa,
)
from minigpt4.curation.reviews import Review


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


def test_only_common_texts_count():
    reviews = [
        Review(1, 'd', 'ann', 'accept', ''),
        Review(1, 'd', 'ben', 'accept', ''),
        Review(1, 'other', 'ben', 'reject', ''),
        Review(2, 'd', 'ann', 'reject', ''),
        Review(2, 'd', 'ben', 'reject', ''),
        Review(3, 'd', 'ann', 'reject', ''),
    ]
    (pair,) = agreements(by_reviewer(reviews))
    assert pair == (('ann', 'ben'), 2, 2, 1.0)
