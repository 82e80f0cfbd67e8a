# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The order of samples depends on the seed and the sample index."""

from collections import Counter
from itertools import islice
from types import SimpleNamespace

import pytest

from minigpt4.datasets import EndlessSampler, MixedSampler, samplers


def take(number, size=7, seed=3, start=0, **kwargs):
    sampler = EndlessSampler(range(size), seed=seed, **kwargs)
    sampler.start = start
    return list(islice(sampler, number))


@pytest.fixture
def on_rank(monkeypatch):
    """Function that yields samples as one of several ranks."""

    def run(rank, world_size, *args, **kwargs):
        with monkeypatch.context() as patch:
            patch.setattr(
                samplers, 'get_dist_info', lambda: (rank, world_size)
            )
            return take(*args, **kwargs)

    return run


def test_each_pass_is_a_new_permutation():
    passes = [[i for i, _ in take(70)[n : n + 7]] for n in range(0, 70, 7)]
    assert all(sorted(order) == list(range(7)) for order in passes)
    assert len({tuple(order) for order in passes}) > 7
    assert [place for _, place in take(30)] == list(range(30))


@pytest.mark.parametrize('start', [0, 6])
def test_global_batches_do_not_depend_on_the_ranks(on_rank, start):
    whole = take(24, start=start)
    ranks = [on_rank(rank, 2, 12, start=start) for rank in range(2)]
    for batch in range(4):  # of 6
        parts = [part[3 * batch : 3 * batch + 3] for part in ranks]
        assert sorted(sum(parts, [])) == sorted(
            whole[6 * batch : 6 * batch + 6]
        )


@pytest.mark.parametrize('start', [1, 6, 7, 8, 20])
def test_start_resumes_the_order(start):
    assert take(10, start=start) == take(40)[start : start + 10]


def test_order_depends_on_the_seed():
    assert take(20) == take(20)
    assert take(20) != take(20, seed=4)
    orders = [tuple(i for i, _ in take(20, 20, seed=s)) for s in range(20)]
    assert len(set(orders)) == 20
    assert len(take(5, seed=None)) == 5


def test_order_without_shuffle_is_that_of_the_dataset():
    assert [i for i, _ in take(9, shuffle=False)] == [*range(7), 0, 1]


def test_more_ranks_than_samples_are_supported(on_rank):
    parts = [on_rank(rank, 3, 4, size=2) for rank in range(3)]
    assert sorted(sum(parts, [])) == sorted(take(12, size=2))


def take_mixed(number, start=0, seed=3, sizes=(5, 3), weights=(3, 1)):
    data = SimpleNamespace(sizes=sizes, weights=weights)
    sampler = MixedSampler(data, seed=seed)
    sampler.start = start
    return list(islice(sampler, number))


def test_each_block_of_a_mixture_has_the_exact_ratio():
    """Records 0 to 4 are of the first part, 5 to 7 of the second."""
    found = take_mixed(40)
    for block in range(0, 40, 4):
        parts = Counter(index >= 5 for index, _ in found[block : block + 4])
        assert parts == {False: 3, True: 1}
    first = [index for index, _ in found if index < 5]
    second = [index for index, _ in found if index >= 5]
    for number in range(6):  # passes over the first part
        assert sorted(first[5 * number : 5 * number + 5]) == list(range(5))
    for number in range(3):
        assert sorted(second[3 * number : 3 * number + 3]) == [5, 6, 7]
    # the places of the second part in the blocks differ
    assert len({i % 4 for i in range(40) if found[i][0] >= 5}) > 1
    assert [n for i, n in found if i >= 5] == list(range(10))
    assert [n for i, n in found if i < 5] == list(range(30))


def test_a_mixture_resumes_and_depends_on_the_seed():
    assert take_mixed(10, start=17) == take_mixed(40)[17:27]
    assert take_mixed(20) != take_mixed(20, seed=4)


def test_a_mixture_does_not_depend_on_the_ranks(monkeypatch):
    whole = take_mixed(24)
    for rank in range(2):
        monkeypatch.setattr(samplers, 'get_dist_info', lambda r=rank: (r, 2))
        assert take_mixed(12) == whole[rank::2]
