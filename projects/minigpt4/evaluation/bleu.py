# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""BLEU of a set of captions with several references each.

Counts are added over all captions before they are divided, so the BLEU of
any selection of captions, such as a bootstrap resample, is computed from
their counts.

Source: Papineni et al. 2002, BLEU: a Method for Automatic Evaluation of
Machine Translation; the closest length and the small constants are those of
COCO's caption scorer.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

MAX_N = 4
# They keep divisions by 0 defined.
_TINY, _SMALL = 1e-15, 1e-9


def ngram_counts(words: Sequence[str]) -> Counter[tuple[str, ...]]:
    """Count the n-grams of 1 to :data:`MAX_N` words."""
    return Counter(
        tuple(words[start : start + n])
        for n in range(1, MAX_N + 1)
        for start in range(len(words) - n + 1)
    )


def bleu_counts(
    counts: Counter[tuple[str, ...]],
    length: int,
    references: Sequence[Counter[tuple[str, ...]]],
    reference_lengths: Sequence[int],
) -> list[int]:
    """What BLEU adds over captions, for one of them.

    Args:
        counts: The n-grams of the caption.
        length: Its number of words.
        references: The n-grams of each reference.
        reference_lengths: Their numbers of words.

    Returns:
        ``2 + 2 * MAX_N`` numbers: the length; the reference length that is
        closest to it, of two the shorter one; for each n the n-grams that a
        reference has too, none more often than in the reference that has it
        most often; for each n all n-grams.
    """
    closest = min(reference_lengths, key=lambda n: (abs(n - length), n))
    matches = [0] * MAX_N
    for ngram, count in counts.items():
        most = max(reference[ngram] for reference in references)
        matches[len(ngram) - 1] += min(count, most)
    numbers = [max(0, length - n) for n in range(MAX_N)]
    return [length, closest, *matches, *numbers]


def bleu_scores(sums: np.ndarray) -> np.ndarray:
    """BLEU-1 to BLEU-4 from sums of :func:`bleu_counts`.

    Args:
        sums: ``(..., 2 + 2 * MAX_N)``.

    Returns:
        ``(..., MAX_N)``, from 0 to 1.
    """
    sums = np.asarray(sums, np.float64)
    lengths, closest = sums[..., :1], sums[..., 1:2]
    matches, numbers = sums[..., 2 : 2 + MAX_N], sums[..., 2 + MAX_N :]
    precisions = (matches + _TINY) / (numbers + _SMALL)
    orders = np.arange(1, MAX_N + 1)
    means = np.cumprod(precisions, axis=-1) ** (1 / orders)
    ratio = (lengths + _TINY) / (closest + _SMALL)
    return means * np.exp(np.minimum(0, 1 - 1 / ratio))
