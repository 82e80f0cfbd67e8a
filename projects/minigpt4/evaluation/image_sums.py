# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Sums of counts for each image, and ratios of them with intervals."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .bootstrap import RESAMPLES, ratio_score

# name of a score: names of the counts whose sums are divided
Ratios = Mapping[str, tuple[str, str]]


class ImageSums:
    """Adds counts up for each image.

    All captions or questions of an image are drawn together by the bootstrap,
    since they are not independent.

    Args:
        seed: Seed of the bootstrap.
        resamples: Its number of resamples.
    """

    def __init__(self, seed: int = 0, resamples: int = RESAMPLES) -> None:
        self.seed, self.resamples = seed, resamples
        self._sums: dict[str, Counter[str]] = {}

    def __len__(self) -> int:
        return len(self._sums)

    def add(self, image: str, **counts: float) -> None:
        """Add counts to those of an image."""
        sums = self._sums.setdefault(image, Counter())
        for name, value in counts.items():
            sums[name] += value  # type: ignore[assignment]

    def total(self, name: str) -> float:
        """The sum of a count over all images."""
        return sum(sums[name] for _, sums in sorted(self._sums.items()))

    def value(self, numerator: str, denominator: str) -> float | None:
        """A sum divided by a sum; None if that is 0."""
        bottom = self.total(denominator)
        return self.total(numerator) / bottom if bottom else None

    def table(self, names: Sequence[str]) -> NDArray[np.float64]:
        """The sums as a table ``(images, names)``, sorted by image."""
        return np.array(
            [
                [sums[name] for name in names]
                for _, sums in sorted(self._sums.items())
            ],
            np.float64,
        )

    def ratio(self, numerator: str, denominator: str) -> dict[str, Any]:
        """``value`` and 95 % ``interval`` of a sum divided by a sum."""
        images = [sums for _, sums in sorted(self._sums.items())]
        return ratio_score(
            [sums[numerator] for sums in images],
            [sums[denominator] for sums in images],
            self.seed,
            self.resamples,
        )

    def scores(self, ratios: Ratios) -> dict[str, dict[str, Any]]:
        """:meth:`ratio` of each score."""
        return {name: self.ratio(*counts) for name, counts in ratios.items()}
