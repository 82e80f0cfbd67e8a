# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Means over seeds and their intervals."""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

# 97.5 % quantiles of Student's t for 1 to 20 degrees of freedom; with more,
# the last one is used, and the interval is up to 7 % too wide
_T = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
)


class Mean(NamedTuple):
    """A mean over seeds.

    Attributes:
        value: The mean.
        low: Lower end of its 95 % interval; None with one seed.
        high: Upper end; None with one seed.
        deviation: Standard deviation over the seeds; None with one seed.
    """

    value: float
    low: float | None = None
    high: float | None = None
    deviation: float | None = None


def mean_over_seeds(values: Sequence[float]) -> Mean:
    """The mean with Student's 95 % interval.

    It shows how much the seed changes a score, not how much other test data
    would.

    Args:
        values: One value for each seed, at least one.

    Raises:
        ValueError: There is no value.
    """
    if not values:
        raise ValueError('no value; expected one for each seed.')
    value = statistics.fmean(values)
    if len(values) == 1:
        return Mean(value)
    deviation = statistics.stdev(values)
    quantile = _T[min(len(values) - 1, len(_T)) - 1]
    margin = quantile * deviation / math.sqrt(len(values))
    return Mean(value, value - margin, value + margin, deviation)
