# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The protocol ``chair``: which objects captions name, and which they invent.

A mention is a name of one of COCO's 80 classes in a caption, see
:mod:`.object_words`. It is invented if the image has no object of the class.

Source: Rohrbach et al. 2018, Object Hallucination in Image Captioning.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from .bootstrap import RESAMPLES, ratio_score
from .object_words import ObjectWords, coco_words, words_of

# of a detailed description, in words
SHORTEST, LONGEST = 40, 120


def score_captions(
    rows: Sequence[Mapping[str, Any]],
    truth: Mapping[str, Collection[str]],
    seed: int = 0,
    resamples: int = RESAMPLES,
    words: ObjectWords | None = None,
) -> dict[str, Any]:
    """Compute the scores of ``chair``.

    Args:
        rows: For each caption ``image_id`` and ``caption``, and optionally
            ``finished`` (whether the answer ended by itself).
        truth: The classes in each image, by the text of its id.
        seed: Seed of the bootstrap.
        resamples: Resamples of the bootstrap.
        words: The words of the classes; None for :func:`coco_words`.

    Returns:
        ``captions``, ``images``, ``mentions`` and ``invented`` (counts),
        ``without_truth`` (captions of images that the truth does not have;
        they are not scored), ``invented_classes`` (invented mentions by
        class), and ``scores``, each with ``value`` and 95 % ``interval``
        over images:

        - ``chair_i``: invented mentions / all mentions;
        - ``chair_s``: captions with an invented mention / captions;
        - ``recall``: named classes of an image / its classes, mean over the
          captions of images with a class;
        - ``recall_over_classes``: the same, summed over the captions first;
        - ``words``: mean length in words;
        - ``detailed``: share of captions of 40 to 120 words;
        - ``finished``: share of captions that ended by themselves, if all
          rows state it.

    Raises:
        ValueError: No caption is of an image with a truth.
    """
    words = words or coco_words()
    by_image: dict[str, list[dict[str, float]]] = {}
    invented_classes: dict[str, int] = {}
    n_captions = without_truth = 0
    know_end = all(row.get('finished') is not None for row in rows)
    for row in rows:
        key = str(row['image_id'])
        if key not in truth:
            without_truth += 1
            continue
        n_captions += 1
        classes = set(truth[key])
        mentions = words.find(row['caption'])
        invented = [name for name in mentions if name not in classes]
        for name in invented:
            invented_classes[name] = invented_classes.get(name, 0) + 1
        found = len(classes & set(mentions))
        length = len(words_of(row['caption']))
        by_image.setdefault(key, []).append(
            dict(
                captions=1,
                mentions=len(mentions),
                invented=len(invented),
                has_invented=bool(invented),
                classes=len(classes),
                found=found,
                has_classes=bool(classes),
                recall=found / len(classes) if classes else 0,
                words=length,
                detailed=SHORTEST <= length <= LONGEST,
                finished=bool(row.get('finished')),
            )
        )
    if not n_captions:
        raise ValueError(
            f'none of the {len(rows):,} captions is of an image that the '
            'truth has; expected the same image ids in both.'
        )
    sums = [
        {name: sum(counts[name] for counts in group) for name in group[0]}
        for _, group in sorted(by_image.items())
    ]

    def ratio(numerator: str, denominator: str = 'captions') -> dict:
        return ratio_score(
            [image[numerator] for image in sums],
            [image[denominator] for image in sums],
            seed,
            resamples,
        )

    scores = dict(
        chair_i=ratio('invented', 'mentions'),
        chair_s=ratio('has_invented'),
        recall=ratio('recall', 'has_classes'),
        recall_over_classes=ratio('found', 'classes'),
        words=ratio('words'),
        detailed=ratio('detailed'),
    )
    if know_end:
        scores['finished'] = ratio('finished')
    most_first = sorted(invented_classes.items(), key=lambda x: (-x[1], x[0]))
    return dict(
        captions=n_captions,
        images=len(sums),
        mentions=sum(int(image['mentions']) for image in sums),
        invented=sum(int(image['invented']) for image in sums),
        without_truth=without_truth,
        scores=scores,
        invented_classes=dict(most_first),
    )
