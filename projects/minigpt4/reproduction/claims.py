# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The claims of the paper, and whether the scores agree with them.

A claim says how a score changes from one training to another. Only the
direction can be compared: models and data are much smaller than the paper's.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from .seeds import Mean, mean_over_seeds

SAME = 0.05  # largest difference that counts as "about the same"
FLOOR = 0.05  # two models with lower means cannot do the task
CEILING = 1 - SAME  # two models with higher means cannot differ by more
RESOLUTION = 0.01  # one record of the smallest test

# scores of a run by training and seed; None for one that is not defined
Scores = Mapping[tuple[str, int], Mapping[str, float | None]]


class Claim(NamedTuple):
    """A claim of the paper.

    Attributes:
        text: What it says.
        paper: The figures of the paper.
        source: Where they are.
        before: A training.
        after: The training that is compared with it.
        score: The score.
        change: ``'up'``, ``'down'``, ``'same'`` or ``'not up'``.
    """

    text: str
    paper: str
    source: str
    before: str
    after: str
    score: str
    change: str


class Verdict(NamedTuple):
    """A claim and what was measured.

    Attributes:
        claim: The claim.
        before: Mean score of the one training.
        after: Mean score of the other.
        difference: Mean over the seeds of the difference of both. Its
            interval is not narrower than ``RESOLUTION`` on each side: a few
            seeds with equal differences are not a certain result.
        text: ``'agrees'``, ``'disagrees'`` or ``'not decided'``.
    """

    claim: Claim
    before: Mean
    after: Mean
    difference: Mean
    text: str


_TABLE_3 = 'section 4.3, table 3'
STAGE_2_REPAIRS = (
    Claim(
        'stage 2 repairs broken descriptions',
        '35 of 100 to 2 of 100',
        _TABLE_3,
        *('stage1', 'stage2', 'describe_failures', 'down'),
    ),
    Claim(
        'stage 2 repairs broken poems',
        '32 of 100 to 1 of 100',
        _TABLE_3,
        *('stage1', 'stage2', 'poem_failures', 'down'),
    ),
)


def three_layers(score: str) -> Claim:
    """The claim about ablation (b), compared by a score."""
    return Claim(
        '(b) three linear layers: not better',
        'A-OKVQA 58.2, GQA 32.2 to 49.7, 31.0',
        'section 4.4, table 5',
        *('stage2', 'stage2_b', score, 'not up'),
    )


def score_of(
    scores: Scores, training: str, seed: int, score: str
) -> float | None:
    """A score of a run; None if it is absent or not defined."""
    return scores.get((training, seed), {}).get(score)


def compare_claim(
    claim: Claim, scores: Scores, seeds: Sequence[int]
) -> Verdict | None:
    """Compare a claim with the scores of the seeds that have both.

    Args:
        claim: The claim.
        scores: Scores by training and seed.
        seeds: The seeds.

    Returns:
        The verdict; None if no seed has both.
    """
    pairs = [
        (first, second)
        for seed in seeds
        if (first := score_of(scores, claim.before, seed, claim.score))
        is not None
        and (second := score_of(scores, claim.after, seed, claim.score))
        is not None
    ]
    if not pairs:
        return None
    difference = _resolved(
        mean_over_seeds([second - first for first, second in pairs])
    )
    before, after = map(mean_over_seeds, zip(*pairs, strict=True))
    text = _verdict(claim.change, difference)
    if claim.change in ('same', 'not up') and _too_close_to_a_limit(
        before.value, after.value
    ):
        text = 'not decided'
    return Verdict(claim, before, after, difference, text)


def _too_close_to_a_limit(*rates: float) -> bool:
    """Whether two models fail alike, or both have no room to be better.

    Neither shows that a change has no effect. Scores above 1 are no rates.
    """
    return max(rates) < FLOOR or (min(rates) > CEILING and max(rates) <= 1)


def _resolved(mean: Mean) -> Mean:
    """Widen an interval to the resolution of the scores."""
    if mean.low is None or mean.high is None:
        return mean
    low = min(mean.low, mean.value - RESOLUTION)
    high = max(mean.high, mean.value + RESOLUTION)
    return mean._replace(low=low, high=high)


def _verdict(change: str, difference: Mean) -> str:
    """Compare the interval of a difference with the claimed change."""
    low, high = difference.low, difference.high
    if low is None or high is None:
        return 'not decided'
    if change == 'down':
        change, low, high = 'up', -high, -low
    if change == 'up':
        agrees, disagrees = low > 0, high < 0
    elif change == 'not up':
        agrees, disagrees = high <= SAME, low > SAME
    elif change == 'same':
        agrees = -SAME <= low and high <= SAME
        disagrees = low > SAME or high < -SAME
    else:
        raise ValueError(
            f"the change is {change!r}; expected 'up', 'down', 'same' or "
            "'not up'."
        )
    return 'agrees' if agrees else 'disagrees' if disagrees else 'not decided'
