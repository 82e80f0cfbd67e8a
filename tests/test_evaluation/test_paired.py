# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Paired intervals and tests: cases enumerated by hand and in full."""

import itertools
import random

import pytest

from minigpt4.evaluation.image_sums import ImageSums
from minigpt4.evaluation.paired import mcnemar, paired_scores

RATIOS = dict(score=('top', 'bottom'))


def sums(images):
    found = ImageSums()
    for i, (top, bottom) in enumerate(images):
        found.add(f'{i:04d}', top=top, bottom=bottom)
    return found


def compare(first, second, **options):
    return paired_scores(sums(first), sums(second), RATIOS, **options)['score']


def test_few_images_are_swapped_in_every_way():
    """A ratio: swapping an image moves both of its counts."""
    first = [(1, 2), (0, 1), (3, 4), (1, 5)]
    second = [(2, 2), (1, 3), (3, 5), (4, 4)]
    observed = 10 / 14 - 5 / 12
    as_large = 0
    for swap in itertools.product((False, True), repeat=4):
        pairs = [
            (b, a) if s else (a, b)
            for a, b, s in zip(first, second, swap, strict=True)
        ]
        one, two = (
            sum(p[side][0] for p in pairs) / sum(p[side][1] for p in pairs)
            for side in (0, 1)
        )
        as_large += abs(two - one) >= abs(observed) - 1e-12
    found = compare(first, second)
    assert found['first'] == pytest.approx(5 / 12, abs=1e-6)
    assert found['second'] == pytest.approx(10 / 14, abs=1e-6)
    assert found['difference'] == pytest.approx(observed, abs=1e-6)
    assert found['p'] == as_large / 16


def test_random_swaps_estimate_the_p_value_of_all_swaps():
    rng = random.Random(0)
    first = [(rng.random(), 1) for _ in range(12)]
    second = [(top + rng.random() - 0.3, 1) for top, _ in first]
    exact = compare(first, second, resamples=2**12)['p']
    estimate = compare(first, second, resamples=2**12 - 1)['p']
    assert 0 < exact < 1
    assert estimate == pytest.approx(exact, abs=0.03)


def test_as_many_resamples_as_swaps_use_each_swap_once():
    # of 4 ways to swap 2 images, 2 give a difference of 1 or -1
    first, second = [(0, 1), (0, 1)], [(1, 1), (1, 1)]
    assert compare(first, second, resamples=4)['p'] == 2 / 4


def test_draws_without_anything_to_count_are_omitted():
    # only image 1 of the first result has something to count: in a quarter
    # of the draws nothing is left of it
    first, second = [(1, 1), (0, 0)], [(1, 2), (1, 2)]
    found = compare(first, second, resamples=200)
    assert found['difference'] == -0.5
    assert found['interval'] == [-0.5, -0.5]
    # swapped: 1/2 and 2/3, 2/3 and 1/2, or 2/4 and 1/1
    assert found['p'] == 2 / 4


def test_the_interval_is_that_of_the_difference():
    """A constant difference has no width, however much images differ."""
    first = [(i % 2, 1) for i in range(100)]
    second = [(top + 0.25, 1) for top, _ in first]
    found = compare(first, second, resamples=500)
    assert found['interval'] == [0.25, 0.25]
    assert found['p'] == pytest.approx(1 / 501, abs=1e-6)


def test_the_interval_has_the_width_of_theory():
    """Of 400 differences of -1, 0 and 1 the standard error is known."""
    rng = random.Random(1)
    first = [(rng.random() < 0.5, 1) for _ in range(400)]
    second = [(rng.random() < 0.5, 1) for _ in range(400)]
    differences = [b[0] - a[0] for a, b in zip(first, second, strict=True)]
    mean = sum(differences) / 400
    error = (sum((d - mean) ** 2 for d in differences) / 400) ** 0.5 / 20
    low, high = compare(first, second)['interval']
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.05)
    assert (high + low) / 2 == pytest.approx(mean, abs=0.1 * error)


@pytest.mark.parametrize('images', [3, 40])
def test_progress_is_that_of_all_draws(images):
    done = []
    compare(
        [(1, 2)] * images, [(1, 1)] * images, resamples=99, advance=done.append
    )
    assert sum(done) == 2 * 99


def test_equal_results_do_not_differ():
    images = [(1, 2), (3, 3)] * 20
    found = compare(images, images, resamples=50)
    assert found['difference'] == 0 and found['p'] == 1
    assert found['interval'] == [0, 0]


def test_two_calls_give_the_same_numbers():
    first = [(i % 3, 2) for i in range(50)]
    second = [(i % 2, 2) for i in range(50)]
    assert compare(first, second) == compare(first, second)
    assert compare(first, second, seed=1) != compare(first, second)


def test_a_score_without_anything_to_count_is_not_defined():
    found = compare([(0, 0), (0, 0)], [(1, 1), (0, 1)])
    assert found['first'] is None and found['second'] == 0.5
    assert found['difference'] is found['interval'] is found['p'] is None


@pytest.mark.parametrize(
    ('only_first', 'only_second', 'p'),
    [
        (0, 0, 1),
        (1, 0, 1),
        (5, 0, 2 / 32),
        (1, 5, 2 * 7 / 64),
        (8, 2, 2 * 56 / 1024),
        (7, 7, 1),
    ],
)
def test_mcnemar_is_a_binomial_test(only_first, only_second, p):
    assert mcnemar(only_first, only_second) == pytest.approx(p, rel=1e-5)


def test_mcnemar_of_many_samples():
    assert mcnemar(50_000, 50_000) == 1
    assert mcnemar(1_000, 0) == pytest.approx(0, abs=1e-200)
