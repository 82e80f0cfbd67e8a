# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
import random

import pytest

from minigpt4.data_tools.near_duplicates import group_pairs, near_pairs


def by_comparing_all(hashes, distance):
    first = {}
    for i, value in enumerate(hashes):
        first.setdefault(value, i)
    return [
        (i, j)
        for i in range(len(hashes))
        for j in range(i + 1, len(hashes))
        if (hashes[i] ^ hashes[j]).bit_count() <= distance
        and first[hashes[i]] == i
        and (hashes[i] == hashes[j] or first[hashes[j]] == j)
    ]


@pytest.mark.parametrize('distance', [0, 1, 4, 10])
def test_equals_a_comparison_of_all_pairs(distance):
    rng = random.Random(distance)
    hashes = [rng.getrandbits(64) for _ in range(60)]
    for _ in range(120):
        value = rng.choice(hashes)
        for bit in rng.sample(range(64), rng.randrange(12)):
            value ^= 1 << bit
        hashes.append(value)
    expected = by_comparing_all(hashes, distance)
    assert expected
    assert near_pairs(hashes, distance) == expected


def test_many_equal_hashes_are_fast():
    assert len(near_pairs([7] * 20_000, 4)) == 19_999


def test_distance_out_of_range():
    with pytest.raises(ValueError, match='expected 0 to 10 bits'):
        near_pairs([1], 11)


def test_groups_are_connected_components():
    assert group_pairs([(5, 6), (1, 2), (2, 9), (0, 9)]) == [
        [0, 1, 2, 9],
        [5, 6],
    ]
