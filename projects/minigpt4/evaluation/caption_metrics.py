# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The caption metrics of COCO: BLEU-1 to 4, ROUGE-L and CIDEr.

The same figures as COCO's caption scorer (pycocoevalcap 1.2), without Java.
METEOR and SPICE, which are Java programs, are not computed.
"""

from collections.abc import Hashable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..utils.errors import printable
from .bleu import MAX_N, bleu_counts, bleu_scores, ngram_counts
from .bootstrap import RESAMPLES
from .caption_tokens import tokens
from .cider import cider_scores
from .image_sums import ImageSums, Scores, SumScore
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
    sums = ImageSums(seed, resamples)
    for id_, counts in zip(
        ids,
        caption_counts(
            [captions[id_] for id_ in ids], [references[id_] for id_ in ids]
        ),
        strict=True,
    ):
        sums.add(str(id_), **counts)
    return dict(
        captions=len(ids),
        references=sum(len(references[id_]) for id_ in ids),
        words=round(sums.total('length') / len(ids), 6),
        scores=sums.scores(SCORES),
    )


def caption_counts(
    captions: Sequence[str], references: Sequence[Sequence[str]]
) -> list[dict[str, float]]:
    """The counts of each caption, from whose sums the scores are computed.

    Args:
        captions: The captions that are scored together.
        references: The reference captions of each, one at least.

    Returns:
        For each caption ``captions`` (1), ``length`` (words), ``rouge_l``,
        ``cider`` and the other counts of :data:`SCORES`.
    """
    caption_tokens = [tokens(text) for text in captions]
    reference_tokens = [[tokens(t) for t in group] for group in references]
    rouge = map(rouge_l, caption_tokens, reference_tokens)
    words = [_words(caption) for caption in caption_tokens]
    reference_words = [
        [_words(t) for t in group] for group in reference_tokens
    ]
    columns = (
        [ngram_counts(caption) for caption in words],
        [len(caption) for caption in words],
        [[ngram_counts(t) for t in group] for group in reference_words],
        [[len(t) for t in group] for group in reference_words],
    )
    bleu = map(bleu_counts, *columns)
    return [
        dict(
            zip(_BLEU_COUNTS, counts, strict=True),
            captions=1,
            rouge_l=rouge_value,
            cider=cider_value,
        )
        for counts, rouge_value, cider_value in zip(
            bleu, rouge, cider_scores(*columns), strict=True
        )
    ]


def _words(text: Sequence[str]) -> list[str]:
    """BLEU and CIDEr split a token at a no-break space, ROUGE-L does not."""
    return [word for token in text for word in token.split()]


def _bleu(n: int, sums: NDArray[np.float64]) -> NDArray[np.float64]:
    return bleu_scores(sums)[..., n - 1]


_ORDERS = range(1, MAX_N + 1)
# in the order of bleu_counts
_BLEU_COUNTS = (
    'length',
    'closest_length',
    *(f'common_{n}_grams' for n in _ORDERS),
    *(f'all_{n}_grams' for n in _ORDERS),
)
# how each score is computed from sums of caption_counts
SCORES: Scores = {
    **{
        f'bleu_{n}': SumScore(_BLEU_COUNTS, partial(_bleu, n)) for n in _ORDERS
    },
    'rouge_l': ('rouge_l', 'captions'),
    'cider': ('cider', 'captions'),
}
# label, name and unit of each score
LABELS = (
    *((f'BLEU-{n}', f'bleu_{n}', '') for n in _ORDERS),
    ('ROUGE-L', 'rouge_l', ''),
    ('CIDEr', 'cider', ''),
)
