# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Shares of yes-or-no outcomes with intervals.

Own code, because scipy is no requirement and this is one formula.
"""

import math
from typing import Any

_Z = 1.959964  # of 95 %


def share(number: int, total: int) -> dict[str, Any]:
    """``value``, 95 % ``interval``, ``number`` and ``total`` of a share.

    The interval is Wilson's, which also has a width where the share is 0 or
    1. Value and interval are None where the total is 0.

    Args:
        number: How many of the total; the outcomes are independent, e.g. one
            for each image.
        total: How many there are.

    Source: E. B. Wilson, Probable Inference, the Law of Succession, and
    Statistical Inference, 1927.
    """
    if not total:
        return dict(value=None, interval=None, number=number, total=total)
    value = number / total
    square = _Z**2 / total
    centre = value + square / 2
    half = _Z * math.sqrt(value * (1 - value) / total + square / (4 * total))
    low, high = (
        min(max((centre + sign * half) / (1 + square), 0.0), 1.0)
        for sign in (-1, 1)
    )
    return dict(
        value=round(value, 6),
        interval=[round(low, 6), round(high, 6)],
        number=number,
        total=total,
    )
