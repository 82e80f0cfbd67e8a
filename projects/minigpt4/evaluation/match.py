# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The protocol ``match``: does a caption prefer its own image?

Each caption's loss is measured with its own image and with another image of
the set. A model that uses the image has a lower loss with the right one. The
scores are computed from the stored losses alone.
"""

import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .bootstrap import RESAMPLES
from .image_sums import ImageSums

# label, name and unit of each score
LABELS = (
    ('loss, right image', 'loss', ''),
    ('loss, other image', 'other_loss', ''),
    ('difference', 'gap', ''),
    ('per token, right image', 'loss_per_token', ''),
    ('per token, other image', 'other_loss_per_token', ''),
    ('right image preferred', 'preferred', '%'),
)
# of each score: the counts whose sums are divided
RATIOS = dict(
    loss=('loss', 'captions'),
    other_loss=('other_loss', 'captions'),
    gap=('gap', 'captions'),
    loss_per_token=('loss_of_tokens', 'tokens'),
    other_loss_per_token=('other_loss_of_tokens', 'tokens'),
    preferred=('preferred', 'captions'),
)


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
    sums = ImageSums(seed, resamples)
    for row in scored:
        sums.add(row['image'], **count_losses(row))
    return dict(
        images=len(sums),
        captions=len(scored),
        tokens=sum(row['tokens'] for row in scored),
        ties=sum(row['loss'] == row['other_loss'] for row in scored),
        skipped=len(rows) - len(scored),
        scores=sums.scores(RATIOS),
    )


def count_losses(row: Mapping[str, Any]) -> dict[str, float]:
    """The counts of a caption.

    Args:
        row: ``tokens``, ``loss`` and ``other_loss``.
    """
    loss, other_loss = row['loss'], row['other_loss']
    gap = other_loss - loss
    return dict(
        captions=1,
        tokens=row['tokens'],
        loss=loss,
        other_loss=other_loss,
        gap=gap,
        loss_of_tokens=loss * row['tokens'],
        other_loss_of_tokens=other_loss * row['tokens'],
        preferred=0.5 if gap == 0 else float(gap > 0),
    )
