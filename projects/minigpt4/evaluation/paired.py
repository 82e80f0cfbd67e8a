# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Differences of two results of the same samples: intervals and tests."""

import math
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from .image_sums import ImageSums, Scores, SumScore, sum_score

RESAMPLES = 10_000
_CELLS = 1 << 20  # of a matrix of draws, so that memory stays small
_TOLERANCE = 1e-12  # of equal differences that are computed in another order

Matrix = NDArray[np.float64]
# of each score: the columns of its counts in a table, and the score
Columns = dict[str, tuple[list[int], SumScore]]


def paired_scores(
    first: ImageSums,
    second: ImageSums,
    scores: Scores,
    seed: int = 0,
    resamples: int = RESAMPLES,
    advance: Callable[[int], object] = lambda number: None,
) -> dict[str, dict[str, object]]:
    """Compare each score of two results.

    Both are sums over the same images, of the same samples. The interval of
    the difference is a percentile bootstrap: images are drawn with
    replacement, and both scores are computed from the same draw. The p-value
    is that of a permutation test: if both results are of equal quality, the
    two may be swapped in each image. A score is a ratio of sums, or another
    function of sums, and all sums follow each draw and each swap.

    Args:
        first: Counts of the first result.
        second: Counts of the second result.
        scores: How each score is computed from sums.
        seed: Seed of the draws.
        resamples: Number of draws of images, and of swaps; if the images can
            be swapped in fewer ways, each way is used once.
        advance: Called with a number of draws that are done, of
            ``2 * resamples`` in all.

    Returns:
        For each score ``first``, ``second`` and ``difference`` (second minus
        first), its 95 % ``interval`` and the ``p`` of the test. What is not
        defined, since a sum to divide by is 0, is None.

    Source: Efron, Tibshirani, An Introduction to the Bootstrap, chapters 13
    and 15; Koehn 2004, Statistical Significance Tests for Machine
    Translation Evaluation (paired bootstrap).
    """
    computed = {name: sum_score(score) for name, score in scores.items()}
    names = sorted({n for score in computed.values() for n in score.counts})
    tables = first.table(names), second.table(names)
    columns = {
        name: ([names.index(count) for count in score.counts], score)
        for name, score in computed.items()
    }
    drawn = _drawn_differences(*tables, columns, seed, resamples, advance)
    swapped = _swapped_differences(*tables, columns, seed, resamples, advance)
    exact = 2 ** len(tables[0]) <= resamples
    return {
        name: _compare(
            first.value(score),
            second.value(score),
            drawn[name],
            swapped[name],
            exact,
        )
        for name, score in computed.items()
    }


def mcnemar(only_first: int, only_second: int) -> float:
    """P-value of the exact, two-sided McNemar test.

    Args:
        only_first: Samples that only the first result has right.
        only_second: Samples that only the second result has right.

    Source: McNemar 1947; exact: a binomial test of one half.
    """
    total, fewer = only_first + only_second, min(only_first, only_second)
    logs = [
        math.lgamma(total + 1)
        - math.lgamma(i + 1)
        - math.lgamma(total - i + 1)
        - total * math.log(2)
        for i in range(fewer + 1)
    ]
    return float(f'{min(1.0, 2 * math.fsum(map(math.exp, logs))):.6g}')


def _compare(
    first: float | None,
    second: float | None,
    drawn: NDArray[np.float64],
    swapped: NDArray[np.float64],
    exact: bool,
) -> dict[str, object]:
    if first is None or second is None:
        return dict(
            first=first, second=second, difference=None, interval=None, p=None
        )
    difference = second - first
    interval = None
    if len(drawn):
        low, high = np.quantile(drawn, (0.025, 0.975))
        interval = [round(float(low), 6), round(float(high), 6)]
    as_large = int((abs(swapped) >= abs(difference) - _TOLERANCE).sum())
    # without all swaps the given results are one of them
    one = 0 if exact else 1
    return dict(
        first=round(first, 6),
        second=round(second, 6),
        difference=round(difference, 6),
        interval=interval,
        p=round((as_large + one) / (len(swapped) + one), 6),
    )


def _drawn_differences(
    first: Matrix,
    second: Matrix,
    columns: Columns,
    seed: int,
    resamples: int,
    advance: Callable[[int], object],
) -> dict[str, Matrix]:
    """Differences of each score in draws of the images."""
    rng = np.random.default_rng(seed)
    size = len(first)

    def sums() -> Iterator[tuple[Matrix, Matrix]]:
        for number in _parts(resamples, size):
            drawn = rng.integers(size, size=(number, size))
            drawn += size * np.arange(number)[:, None]
            times = np.bincount(drawn.ravel(), minlength=number * size)
            weights = times.reshape(number, size).astype(np.float64)
            yield weights @ first, weights @ second
            advance(number)

    return _differences(sums(), columns)


def _swapped_differences(
    first: Matrix,
    second: Matrix,
    columns: Columns,
    seed: int,
    resamples: int,
    advance: Callable[[int], object],
) -> dict[str, Matrix]:
    """Differences of each score when both results swap some images."""
    rng = np.random.default_rng(seed)
    size = len(first)
    both = first.sum(0) + second.sum(0)
    change = second - first

    def swaps() -> Iterator[NDArray[np.integer]]:
        if 2**size <= resamples:
            yield np.arange(2**size)[:, None] >> np.arange(size) & 1
            advance(resamples)
            return
        for number in _parts(resamples, size):
            yield rng.integers(2, size=(number, size), dtype=np.uint8)
            advance(number)

    def sums() -> Iterator[tuple[Matrix, Matrix]]:
        for swapped in swaps():
            one = first.sum(0) + swapped.astype(np.float64) @ change
            yield one, both - one

    return _differences(sums(), columns)


def _differences(
    sums: Iterator[tuple[Matrix, Matrix]],
    columns: Columns,
) -> dict[str, Matrix]:
    """Second minus first score of each pair of sums, where both exist."""
    found: dict[str, list[Matrix]] = {name: [] for name in columns}
    for first, second in sums:
        for name, (places, score) in columns.items():
            change = score.compute(second[:, places]) - score.compute(
                first[:, places]
            )
            found[name].append(change[~np.isnan(change)])
    return {name: np.concatenate(parts) for name, parts in found.items()}


def _parts(total: int, size: int) -> Iterator[int]:
    """Numbers that sum to a total, each for a matrix of ``_CELLS`` cells."""
    at_one_time = max(1, _CELLS // size)
    for start in range(0, total, at_one_time):
        yield min(at_one_time, total - start)
