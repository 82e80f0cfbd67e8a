# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The protocol ``match``: does a caption prefer its own image?

Each caption's loss is measured with its own image and with another image of
the set. A model that uses the image has a lower loss with the right one. The
scores are computed from the stored losses alone.
"""

import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from .bootstrap import RESAMPLES, ratio_score


def other_images(names: Iterable[str], seed: int) -> list[str]:
    """Order images in a circle: each one meets the next, the last the first.

    A random circle is a derangement: no image meets itself, and each image
    is the other image of exactly one.

    Args:
        names: Names of the images; their order does not matter.
        seed: Seed of the circle.
    """
    circle = sorted(set(names))
    random.Random(f'match-{seed}').shuffle(circle)
    return circle


def score_losses(
    rows: Sequence[dict[str, Any]],
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """Compute the scores of ``match`` from its raw results.

    Args:
        rows: For each caption ``image``, ``tokens``, ``loss`` and
            ``other_loss`` (nats per token); rows with ``error`` are counted
            as skipped.
        seed: Seed of the bootstrap.
        resamples: Resamples of the bootstrap.

    Returns:
        Counts, and for each score its ``value`` and 95 % ``interval`` over
        images: ``loss`` and ``other_loss`` (mean over captions),
        ``loss_per_token`` and ``other_loss_per_token`` (mean over tokens),
        ``gap`` (other minus right, over captions) and ``preferred`` (share
        of the captions whose loss is lower with the right image; a tie
        counts one half).

    Raises:
        ValueError: There is no caption to score.
    """
    scored = [row for row in rows if 'error' not in row]
    if not scored:
        raise ValueError(
            'no caption was scored; give images and captions that can be read.'
        )
    by_image: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in scored:
        by_image[row['image']].append(row)
    groups = [by_image[name] for name in sorted(by_image)]

    def score(numerator: Any, denominator: Any = lambda row: 1) -> dict:
        return ratio_score(
            [sum(map(numerator, group)) for group in groups],
            [sum(map(denominator, group)) for group in groups],
            seed,
            resamples,
        )

    return dict(
        images=len(groups),
        captions=len(scored),
        tokens=sum(row['tokens'] for row in scored),
        ties=sum(row['loss'] == row['other_loss'] for row in scored),
        skipped=len(rows) - len(scored),
        scores=dict(
            loss=score(lambda row: row['loss']),
            other_loss=score(lambda row: row['other_loss']),
            gap=score(lambda row: row['other_loss'] - row['loss']),
            loss_per_token=score(
                lambda row: row['loss'] * row['tokens'],
                lambda row: row['tokens'],
            ),
            other_loss_per_token=score(
                lambda row: row['other_loss'] * row['tokens'],
                lambda row: row['tokens'],
            ),
            preferred=score(_preference),
        ),
    )


def _preference(row: dict[str, Any]) -> float:
    """1 if the right image is preferred, 0.5 for a tie, else 0."""
    difference = row['other_loss'] - row['loss']
    return 0.5 if difference == 0 else float(difference > 0)
