# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Confidence intervals of scores by a bootstrap over images."""

from collections.abc import Sequence

import numpy as np

RESAMPLES = 1000
_AT_ONE_TIME = 50  # resamples, so that memory stays small


def ratio_interval(
    numerators: Sequence[float],
    denominators: Sequence[float],
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile interval of a sum divided by a sum, over images.

    Images are drawn with replacement, each with all its captions, since
    captions of one image are not independent. A mean over captions is such a
    ratio: of each image's sum and of its number of captions.

    Args:
        numerators: One value for each image.
        denominators: One value for each image; the sum is above 0.
        seed: Seed of the draws.
        resamples: Number of draws of all images.
        level: Probability of the interval.

    Returns:
        Its lower and upper end; draws in which the denominators sum to 0 are
        not counted.

    Source: Efron, Tibshirani, An Introduction to the Bootstrap, chapter 13.
    """
    values = np.stack([numerators, denominators], axis=1)
    sums = resampled_sums(values, seed, resamples)
    valid = sums[:, 1] > 0
    return percentile_interval(sums[valid, 0] / sums[valid, 1], level)


def resampled_sums(
    values: np.ndarray, seed: int = 0, resamples: int = RESAMPLES
) -> np.ndarray:
    """Draw images with replacement, and add their values.

    Args:
        values: ``(images, K)``.
        seed: Seed of the draws.
        resamples: Number of draws of all images.

    Returns:
        ``(resamples, K)``.
    """
    values = np.asarray(values, np.float64)
    rng = np.random.default_rng(seed)
    sums = []
    for start in range(0, resamples, _AT_ONE_TIME):
        number = min(_AT_ONE_TIME, resamples - start)
        drawn = rng.integers(len(values), size=(number, len(values)))
        sums += [values[rows].sum(0) for rows in drawn]
    return np.stack(sums)


def percentile_interval(
    values: np.ndarray, level: float = 0.95
) -> tuple[float, float]:
    """Lower and upper end of the middle part of values."""
    tail = (1 - level) / 2
    low, high = np.quantile(values, (tail, 1 - tail))
    return float(low), float(high)


def ratio_score(
    numerators: Sequence[float],
    denominators: Sequence[float],
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, float | list[float] | None]:
    """``value`` and 95 % ``interval`` of a ratio; see ratio_interval.

    Both are None where all denominators are 0.
    """
    if not sum(denominators):
        return dict(value=None, interval=None)
    low, high = ratio_interval(numerators, denominators, seed, resamples)
    value = sum(numerators) / sum(denominators)
    return dict(
        value=round(value, 6), interval=[round(low, 6), round(high, 6)]
    )
