# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Confidence intervals of scores by a bootstrap over images."""

import numpy as np

RESAMPLES = 1000
_AT_ONE_TIME = 50  # resamples, so that memory stays small


def resampled_sums(
    values: np.ndarray, seed: int = 0, resamples: int = RESAMPLES
) -> np.ndarray:
    """Draw images with replacement, and add their values.

    All captions of an image are drawn together, since they are not
    independent. A score of the sums of each draw has the interval of
    :func:`percentile_interval`.

    Args:
        values: ``(images, K)``.
        seed: Seed of the draws.
        resamples: Number of draws of all images.

    Returns:
        ``(resamples, K)``.

    Source: Efron, Tibshirani, An Introduction to the Bootstrap, chapter 13.
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
