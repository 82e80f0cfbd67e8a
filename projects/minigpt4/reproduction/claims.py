# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The claims of the paper, and whether the scores agree with them.

A claim says how a score changes from one training to another. Only the
direction can be compared: the sizes of a nano model and of its data are not
those of the paper.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from .seeds import Mean, mean_over_seeds

SAME = 0.05  # largest difference that counts as "about the same"

# scores of a run by training and seed
Scores = Mapping[tuple[str, int], Mapping[str, float]]


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
        difference: Mean over the seeds of the difference of both.
        text: ``'agrees'``, ``'disagrees'`` or ``'not decided'``.
    """

    claim: Claim
    before: Mean
    after: Mean
    difference: Mean
    text: str


_TABLE_3 = 'section 4.3, table 3'
_TABLE_5 = 'section 4.4, table 5'
_TABLE_6 = 'appendix A.2, table 6'
_BASE = 'A-OKVQA 58.2, GQA 32.2 to '
CLAIMS = (
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
    Claim(
        'after stage 2, poems are right that no image was ever paired with',
        '20 of 25; BLIP-2 0 of 25',
        'section 4.2, table 1',
        *('stage1', 'stage2', 'poem', 'up'),
    ),
    Claim(
        '(a) without a Q-Former: about the same',
        _BASE + '56.9, 33.4',
        _TABLE_5,
        *('stage2', 'stage2_a', 'questions', 'same'),
    ),
    Claim(
        '(b) three linear layers: not better',
        _BASE + '49.7, 31.0',
        _TABLE_5,
        *('stage2', 'stage2_b', 'questions', 'not up'),
    ),
    Claim(
        '(c) Q-Former trained too: not better',
        _BASE + '52.1, 28.0',
        _TABLE_5,
        *('stage2', 'stage2_c', 'questions', 'not up'),
    ),
    Claim(
        'LoRA and question data in stage 2: better',
        _BASE + '67.2, 43.5',
        _TABLE_6,
        *('stage2', 'finetune_vicuna', 'questions', 'up'),
    ),
    Claim(
        'Localized Narratives in stage 2: longer descriptions',
        'no figure',
        'section 4.3',
        *('stage2', 'locna', 'describe_words', 'up'),
    ),
)


def compare_claim(
    claim: Claim, scores: Scores, seeds: Sequence[int]
) -> Verdict | None:
    """Compare a claim with the scores of all seeds that have both trainings.

    Args:
        claim: The claim.
        scores: Scores by training and seed.
        seeds: The seeds.

    Returns:
        The verdict; None if no seed has both.
    """
    pairs = [
        (before[claim.score], after[claim.score])
        for seed in seeds
        if (before := scores.get((claim.before, seed))) is not None
        and (after := scores.get((claim.after, seed))) is not None
    ]
    if not pairs:
        return None
    difference = mean_over_seeds([after - before for before, after in pairs])
    return Verdict(
        claim,
        mean_over_seeds([before for before, _ in pairs]),
        mean_over_seeds([after for _, after in pairs]),
        difference,
        _verdict(claim.change, difference),
    )


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
