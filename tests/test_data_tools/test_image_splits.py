# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Splits by image."""

from collections import Counter

import pytest

from minigpt4.data_tools.image_splits import (
    join_groups,
    parse_shares,
    split_images,
)


@pytest.mark.parametrize(
    ('number', 'shares', 'expected'),
    [
        (100, (0.9, 0.05, 0.05), [90, 5, 5]),
        (7, (0.9, 0.1), [6, 1]),
        (3, (0.9, 0.05, 0.05), [1, 1, 1]),
        (2, (0.9, 0.05, 0.05), [1, 1, 0]),
        (1, (0.5, 0.5), [1, 0]),
    ],
)
def test_shares_are_kept(number, shares, expected):
    counts = Counter(split_images(range(number), shares, seed=0))
    assert sorted(counts[i] for i in range(len(shares))) == sorted(expected)
    assert sum(counts.values()) == number


def test_the_seed_decides():
    first = split_images(range(50), (0.5, 0.5), seed=1)
    assert first == split_images(range(50), (0.5, 0.5), seed=1)
    assert first != split_images(range(50), (0.5, 0.5), seed=2)


def test_images_of_a_record_are_a_group():
    assert join_groups(6, [[4, 2], [2, 5], [0, 1]]) == [0, 0, 2, 3, 2, 2]


@pytest.mark.parametrize('text', ['', '1', '0.9', '0.9,0.2', 'a,b', '1,0'])
def test_wrong_shares(text):
    with pytest.raises(ValueError, match='such as 0.9,0.05,0.05'):
        parse_shares(text)
