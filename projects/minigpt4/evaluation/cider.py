# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""CIDEr-D, which COCO's caption scorer calls CIDEr.

A caption and a reference are compared by the n-grams that they share. Each
n-gram has the weight of its inverse document frequency: the logarithm of the
number of images divided by the number of images with the n-gram in a
reference. So the score of a caption depends on the references of all images
that are scored together, and with one image all weights are 0.

Source: Vedantam et al. 2015, CIDEr: Consensus-based Image Description
Evaluation, section 7; sizes and the length as in COCO's caption scorer.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from .bleu import MAX_N

Ngrams = Counter[tuple[str, ...]]

_SIGMA = 6.0  # of the penalty of a difference of lengths
_SCALE = 10.0


class _Vector:
    """Weights of the n-grams of a text.

    Attributes:
        weights: By n-gram.
        norms: Euclidean norm of the weights, for each n.
    """

    def __init__(
        self, counts: Ngrams, log_images: float, log_df: dict
    ) -> None:
        squares = [0.0] * MAX_N
        self.weights = {}
        for ngram, count in counts.items():
            weight = count * (log_images - log_df.get(ngram, 0.0))
            self.weights[ngram] = weight
            squares[len(ngram) - 1] += weight * weight
        self.norms = [math.sqrt(square) for square in squares]


def cider_scores(
    captions: Sequence[Ngrams],
    lengths: Sequence[int],
    references: Sequence[Sequence[Ngrams]],
    reference_lengths: Sequence[Sequence[int]],
) -> list[float]:
    """CIDEr of each caption, from 0 to 10; their mean is that of the set.

    Args:
        captions: The n-grams of the caption of each image.
        lengths: Its number of words.
        references: The n-grams of the references of each image.
        reference_lengths: Their numbers of words.
    """
    log_df = _log_document_frequencies(references)
    log_images = math.log(len(captions)) if captions else 0.0
    scores = []
    for counts, length, group, group_lengths in zip(
        captions, lengths, references, reference_lengths, strict=True
    ):
        caption = _Vector(counts, log_images, log_df)
        total = 0.0
        for reference, reference_length in zip(
            group, group_lengths, strict=True
        ):
            # the scorer's length is the number of pairs of words
            difference = max(length, 1) - max(reference_length, 1)
            penalty = math.exp(-(difference**2) / (2 * _SIGMA**2))
            vector = _Vector(reference, log_images, log_df)
            total += penalty * _similarity(caption, vector)
        scores.append(_SCALE * total / len(group))
    return scores


def _log_document_frequencies(
    references: Iterable[Sequence[Ngrams]],
) -> dict[tuple[str, ...], float]:
    """Logarithm of the number of images with an n-gram in a reference."""
    images: Ngrams = Counter()
    for group in references:
        images.update(set().union(*group))
    return {ngram: math.log(count) for ngram, count in images.items()}


def _similarity(caption: _Vector, reference: _Vector) -> float:
    """Mean over n of the cosine similarity.

    Weights of the caption above those of the reference are reduced to them.
    """
    products = [0.0] * MAX_N
    weights = reference.weights
    for ngram, weight in caption.weights.items():
        if other := weights.get(ngram):
            products[len(ngram) - 1] += min(weight, other) * other
    return (
        sum(
            product / (norm * other)
            for product, norm, other in zip(
                products, caption.norms, reference.norms, strict=True
            )
            if product
        )
        / MAX_N
    )
