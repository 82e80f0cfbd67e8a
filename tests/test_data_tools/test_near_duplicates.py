# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
import random

import pytest

from minigpt4.data_tools.near_duplicates import near_groups, near_pairs


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


def similar_hashes(seed, number):
    rng = random.Random(seed)
    hashes = [rng.getrandbits(64) for _ in range(number)]
    for _ in range(2 * number):
        value = rng.choice(hashes)
        for bit in rng.sample(range(64), rng.randrange(12)):
            value ^= 1 << bit
        hashes.append(value)
    return hashes


# more hashes are compared in more bands
@pytest.mark.parametrize(
    ('distance', 'number'), [(0, 60), (1, 60), (4, 60), (10, 60), (10, 400)]
)
def test_equals_a_comparison_of_all_pairs(distance, number):
    hashes = similar_hashes(distance, number)
    expected = by_comparing_all(hashes, distance)
    assert expected
    assert near_pairs(hashes, distance) == expected


def test_more_hashes_take_no_quadratic_time(monkeypatch):
    from minigpt4.data_tools import near_duplicates

    count = near_duplicates.count_bits
    compared = []

    def counting(values):
        compared.append(values.size)
        return count(values)

    monkeypatch.setattr(near_duplicates, 'count_bits', counting)
    rng = random.Random(0)
    for number in (20_000, 80_000):
        compared.clear()
        near_pairs([rng.getrandbits(64) for _ in range(number)], 4)
        assert sum(compared) < 10 * number


def test_many_equal_hashes_are_fast():
    assert len(near_pairs([7] * 20_000, 4)) == 19_999


def test_distance_out_of_range():
    with pytest.raises(ValueError, match='expected 0 to 10 bits'):
        near_pairs([1], 11)


def test_groups_are_connected_components():
    pytest.importorskip('scipy')
    hashes = [0b111, 0b111 << 40, 0b1, 1 << 20, 0b1111 << 40, 0, 0b1]
    assert near_groups(hashes, 1) == [[1, 4], [2, 3, 5, 6]]
    assert near_groups(hashes, 0) == [[2, 6]]
    assert near_groups([], 4) == []


def test_groups_of_many_pairs(monkeypatch):
    pytest.importorskip('scipy')
    from minigpt4.data_tools import near_duplicates

    hashes = similar_hashes(4, 60)
    expected = near_groups(hashes, 4)
    monkeypatch.setattr(near_duplicates, '_COLLECTED', 3)
    assert near_groups(hashes, 4) == expected
