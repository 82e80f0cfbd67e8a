# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Sums of counts for each image, and scores of them with intervals."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .bootstrap import RESAMPLES, percentile_interval, resampled_sums


@dataclass(frozen=True)
class SumScore:
    """A score that is computed from sums of counts.

    Attributes:
        counts: Names of the counts.
        compute: The scores ``(...)`` of sums ``(..., counts)``; NaN where
            the score is not defined.
    """

    counts: tuple[str, ...]
    compute: Callable[[NDArray[np.float64]], NDArray[np.float64]]


# name of a score: names of the counts whose sums are divided
Ratios = Mapping[str, tuple[str, str]]
# the same, or another function of sums
Scores = Mapping[str, tuple[str, str] | SumScore]


def sum_score(score: tuple[str, str] | SumScore) -> SumScore:
    """A score as a function of sums; a pair of names is a ratio."""
    return score if isinstance(score, SumScore) else SumScore(score, _ratio)


def _ratio(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    top, bottom = sums[..., 0], sums[..., 1]
    undefined = np.full(bottom.shape, np.nan)
    return np.divide(top, bottom, out=undefined, where=bottom > 0)


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

    def value(self, score: SumScore) -> float | None:
        """A score of all images; None if it is not defined."""
        sums = np.array([self.total(name) for name in score.counts])
        value = float(score.compute(sums.astype(np.float64)))
        return None if np.isnan(value) else value

    def table(self, names: Sequence[str]) -> NDArray[np.float64]:
        """The sums as a table ``(images, names)``, sorted by image."""
        return np.array(
            [
                [sums[name] for name in names]
                for _, sums in sorted(self._sums.items())
            ],
            np.float64,
        )

    def scores(self, scores: Scores) -> dict[str, dict[str, Any]]:
        """``value`` and 95 % ``interval`` of each score.

        Both are None where the score is not defined. Draws in which it is
        not defined are not counted; the interval is None if none is left.
        """
        drawn: dict[tuple[str, ...], NDArray[np.float64]] = {}
        found: dict[str, dict[str, Any]] = {}
        for name, pair in scores.items():
            score = sum_score(pair)
            value = self.value(score)
            found[name] = dict(value=None, interval=None)
            if value is None:
                continue
            found[name]['value'] = round(value, 6)
            if score.counts not in drawn:
                drawn[score.counts] = resampled_sums(
                    self.table(score.counts), self.seed, self.resamples
                )
            values = score.compute(drawn[score.counts])
            values = values[~np.isnan(values)]
            if len(values):
                ends = percentile_interval(values)
                found[name]['interval'] = [round(end, 6) for end in ends]
        return found
