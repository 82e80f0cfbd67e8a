# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The protocol ``chair``: which objects captions name, and which they invent.

A mention is a name of one of COCO's 80 classes in a caption, see
:mod:`.object_words`. It is invented if the image has no object of the class.

Source: Rohrbach et al. 2018, Object Hallucination in Image Captioning.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from ..images.image_ids import ImageIds
from .bootstrap import RESAMPLES
from .image_sums import ImageSums, Ratios
from .object_words import ObjectWords, coco_words, words_of
from .unknown_ids import NAMED_IDS, name_unknown

# of a detailed description, in words
SHORTEST, LONGEST = 40, 120
# label, name and unit of each score
LABELS = (
    ('CHAIR_i, invented mentions', 'chair_i', '%'),
    ('CHAIR_s, captions with one', 'chair_s', '%'),
    ('recall, mean over captions', 'recall', '%'),
    ('recall, over all classes', 'recall_over_classes', '%'),
    ('length in words', 'words', ''),
    ('40 to 120 words', 'detailed', '%'),
    ('ended by itself', 'finished', '%'),
)
_RATIOS = dict(
    chair_i=('invented', 'mentions'),
    chair_s=('has_invented', 'captions'),
    recall=('recall', 'has_classes'),
    recall_over_classes=('found', 'classes'),
    words=('words', 'captions'),
    detailed=('detailed', 'captions'),
    finished=('finished', 'captions'),
)


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
        truth: The classes in each image, by its id. The id of a caption may
            have another form (:class:`~minigpt4.images.image_ids.ImageIds`).
        seed: Seed of the bootstrap.
        resamples: Resamples of the bootstrap.
        words: The words of the classes; None for :func:`coco_words`.

    Returns:
        ``captions``, ``images``, ``mentions`` and ``invented`` (counts),
        ``without_truth`` (captions of images that the truth does not have;
        they are not scored), ``unknown_ids`` (the first ids of these),
        ``known_id`` (the id in the truth of the first scored caption, to
        compare them with),
        ``invented_classes`` (invented mentions by class), and ``scores``,
        each with ``value`` and 95 % ``interval`` over images:

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
    sums = ImageSums(seed, resamples)
    invented_classes: Counter[str] = Counter()
    ids = ImageIds(truth)
    unknown: list[str] = []
    known = ''
    n_captions = 0
    for row in rows:
        key = ids.find(row['image_id'])
        if key is None:
            unknown.append(str(row['image_id']))
            continue
        known = known or key
        n_captions += 1
        counts, invented = count_caption(row, truth[key], words)
        sums.add(key, **counts)
        invented_classes.update(invented)
    if not n_captions:
        raise ValueError(
            f'none of the {len(rows):,} captions is of an image that the '
            f'truth has{name_unknown(unknown, truth)}; expected the same '
            'image ids in both.'
        )
    scores = sums.scores(chair_ratios(rows))
    most_first = sorted(invented_classes.items(), key=lambda x: (-x[1], x[0]))
    return dict(
        captions=n_captions,
        images=len(sums),
        mentions=int(sums.total('mentions')),
        invented=int(sums.total('invented')),
        without_truth=len(unknown),
        unknown_ids=unknown[:NAMED_IDS],
        known_id=known,
        scores=scores,
        invented_classes=dict(most_first),
    )


def count_caption(
    row: Mapping[str, Any],
    classes: Collection[str],
    words: ObjectWords,
) -> tuple[dict[str, float], list[str]]:
    """The counts of a caption, and the class of each invented mention.

    Args:
        row: ``caption``, and optionally ``finished``.
        classes: The classes in its image.
        words: The words of the classes.
    """
    present = set(classes)
    mentions = words.find(row['caption'])
    invented = [name for name in mentions if name not in present]
    found = len(present & set(mentions))
    length = len(words_of(row['caption']))
    counts: dict[str, float] = dict(
        captions=1,
        mentions=len(mentions),
        invented=len(invented),
        has_invented=bool(invented),
        classes=len(present),
        found=found,
        has_classes=bool(present),
        recall=found / len(present) if present else 0,
        words=length,
        detailed=SHORTEST <= length <= LONGEST,
        finished=bool(row.get('finished')),
    )
    return counts, invented


def chair_ratios(rows: Iterable[Mapping[str, Any]]) -> Ratios:
    """The counts whose sums each score divides.

    Args:
        rows: All captions; ``finished`` is a score if each of them states it.
    """
    if any(row.get('finished') is None for row in rows):
        return {k: v for k, v in _RATIOS.items() if k != 'finished'}
    return _RATIOS
