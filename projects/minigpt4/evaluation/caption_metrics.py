# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The caption metrics of COCO: BLEU-1 to 4, ROUGE-L and CIDEr.

The same figures as COCO's caption scorer (pycocoevalcap 1.2), without Java.
METEOR and SPICE, which are Java programs, are not computed.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from ..utils.errors import printable
from .bleu import MAX_N, bleu_counts, bleu_scores, ngram_counts
from .bootstrap import (
    RESAMPLES,
    percentile_interval,
    ratio_score,
    resampled_sums,
)
from .caption_tokens import tokens
from .cider import cider_scores
from .rouge import rouge_l

Id = TypeVar('Id', bound=Hashable)


def score_caption_metrics(
    captions: Mapping[Id, str],
    references: Mapping[Id, Sequence[str]],
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """Compute the caption metrics of COCO.

    Args:
        captions: The caption of each image, by its id; it may be empty.
        references: The reference captions of each image, one at least;
            images without a caption are not counted.
        seed: Seed of the bootstrap.
        resamples: Resamples of the bootstrap.

    Returns:
        ``captions`` and ``references`` (counts), ``words`` (mean number of
        words of a caption), and ``scores``: ``bleu_1`` to ``bleu_4``,
        ``rouge_l`` and ``cider``, each with ``value`` and 95 % ``interval``
        over images. BLEU and ROUGE-L are from 0 to 1, CIDEr from 0 to 10.
        The document frequencies of CIDEr are those of all images in each
        resample too.

    Raises:
        ValueError: There is no caption, or an image has no reference.
    """
    if not captions:
        raise ValueError('there is no caption; expected one at least.')
    for id_ in captions:
        if not references.get(id_):
            raise ValueError(
                f'image {printable(str(id_))} has a caption and no '
                'reference; expected one reference at least.'
            )
    # in a fixed order, so that the intervals do not depend on the file's
    ids = sorted(captions, key=lambda id_: (str(id_), str(type(id_))))
    caption_tokens = [tokens(captions[id_]) for id_ in ids]
    reference_tokens = [[tokens(t) for t in references[id_]] for id_ in ids]
    rouge = [
        rouge_l(caption, group)
        for caption, group in zip(
            caption_tokens, reference_tokens, strict=True
        )
    ]
    words = [_words(caption) for caption in caption_tokens]
    reference_words = [
        [_words(t) for t in group] for group in reference_tokens
    ]
    counts = [ngram_counts(caption) for caption in words]
    reference_counts = [
        [ngram_counts(reference) for reference in group]
        for group in reference_words
    ]
    lengths = [len(caption) for caption in words]
    reference_lengths = [[len(t) for t in group] for group in reference_words]
    columns = (counts, lengths, reference_counts, reference_lengths)
    cider = cider_scores(*columns)
    bleu = np.array([bleu_counts(*row) for row in zip(*columns, strict=True)])

    def mean(values: Sequence[float]) -> dict[str, Any]:
        return ratio_score(values, [1] * len(ids), seed, resamples)

    return dict(
        captions=len(ids),
        references=sum(map(len, reference_lengths)),
        words=round(sum(lengths) / len(ids), 6),
        scores=dict(
            **_bleu(bleu, seed, resamples),
            rouge_l=mean(rouge),
            cider=mean(cider),
        ),
    )


def _words(text: Sequence[str]) -> list[str]:
    """BLEU and CIDEr split a token at a no-break space, ROUGE-L does not."""
    return [word for token in text for word in token.split()]


def _bleu(
    counts: np.ndarray, seed: int, resamples: int
) -> dict[str, dict[str, Any]]:
    values = bleu_scores(counts.sum(0))
    drawn = bleu_scores(resampled_sums(counts, seed, resamples))
    return {
        f'bleu_{n + 1}': dict(
            value=round(float(values[n]), 6),
            interval=[round(e, 6) for e in percentile_interval(drawn[:, n])],
        )
        for n in range(MAX_N)
    }
