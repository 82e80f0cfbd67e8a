# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Cohen's kappa of two reviewers."""

from minigpt4.curation.agreement import (
    agreements,
    by_reviewer,
)
from minigpt4.curation.reviews import Review


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
