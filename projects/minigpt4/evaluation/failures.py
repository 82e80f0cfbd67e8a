# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The protocol ``failures``: how often captions and poems are no good.

Source: paper section 4.3 and table 3 (arXiv:2304.10592), where people
counted the failures. Here programs find four kinds, and people may mark all
answers (:mod:`.marks`).
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

from .object_words import coco_words
from .proportions import share
from .text_rules import fragments, repetition, unfinished

# table 3, word for word
PROMPTS = {
    'caption': 'Describe the image in detail.',
    'poem': 'Can you write a beautiful poem about this image?',
}
# the other sampling parameters are the model's own
GENERATION: dict[str, Any] = dict(do_sample=False, max_new_tokens=300)
# failures in percent of 100 images, before and after stage 2
PUBLISHED = {'caption': (35, 2), 'poem': (32, 1)}
KINDS = ('repetition', 'fragments', 'unfinished', 'irrelevance')
# those of the rules of the curation
DETECTORS: dict[str, float] = dict(
    max_repeated=0.25,
    max_same_word=4,
    min_sentence_words=3,
    max_fragments=0.3,
)


def find_failures(
    answer: str,
    finished: bool = True,
    truth: Sequence[str] | None = None,
    ends_with_sentence: bool = True,
) -> dict[str, str]:
    """Find the failures of an answer.

    Args:
        answer: The answer.
        finished: Whether the model ended it, and not ``max_new_tokens``.
        truth: The classes of COCO in the image; None if not known.
        ends_with_sentence: Whether an answer without a full stop at its end
            is unfinished. A poem may end without one.

    Returns:
        The reason of each kind of failure that was found. ``irrelevance``:
        the answer names none of the classes of the image; an image without
        classes, or of an unknown truth, has no such failure.
    """
    found = dict(
        repetition=repetition(
            answer,
            DETECTORS['max_repeated'],
            int(DETECTORS['max_same_word']),
        ),
        fragments=fragments(
            answer,
            int(DETECTORS['min_sentence_words']),
            DETECTORS['max_fragments'],
        ),
        unfinished=None,
        irrelevance=None,
    )
    if not finished:
        found['unfinished'] = 'the answer was cut at max_new_tokens.'
    elif not answer.strip():
        found['unfinished'] = 'the answer is empty.'
    elif ends_with_sentence:
        found['unfinished'] = unfinished(answer)
    if truth and not set(truth) & set(coco_words().find(answer)):
        found['irrelevance'] = (
            f'the answer names none of {", ".join(sorted(truth))}.'
        )
    return {kind: why for kind, why in found.items() if why is not None}


def row_failures(row: Mapping[str, Any]) -> dict[str, str]:
    """The failures of a row of ``answers.jsonl``."""
    return find_failures(
        row['answer'],
        row['finished'],
        row.get('truth'),
        row['group'] != 'poem',
    )


def sample_images(files: Sequence[str], count: int, seed: int) -> list[str]:
    """Choose images at random, by seed and name.

    Args:
        files: The images.
        count: How many; all if there are fewer.
        seed: Of the choice. It does not depend on the order of the files.

    Returns:
        The chosen ones, in the order of ``files``.
    """

    def place(file: str) -> bytes:
        name = f'{seed} {os.path.basename(file)}'
        return hashlib.sha256(name.encode(errors='replace')).digest()

    chosen = set(sorted(files, key=place)[:count])
    return [file for file in files if file in chosen]


def score_failures(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Compute the scores of ``failures``.

    Args:
        rows: Of ``answers.jsonl``.

    Returns:
        ``answers`` and ``images`` (counts), ``detectors`` (their
        parameters), and ``scores``: for each prompt the share of answers
        with each kind of failure and with ``any``; ``irrelevance`` is the
        share of the images that have classes.

    Raises:
        ValueError: There is no answer.
    """
    answered = [row for row in rows if 'error' not in row]
    if not answered:
        raise ValueError('no image has an answer.')
    scores = {}
    for group in PROMPTS:
        own = [row for row in answered if row['group'] == group]
        found = [row_failures(row) for row in own]
        known = sum(bool(row.get('truth')) for row in own)
        scores[group] = {
            kind: share(
                sum(kind in failures for failures in found),
                known if kind == 'irrelevance' else len(own),
            )
            for kind in KINDS
        }
        scores[group]['any'] = share(sum(map(bool, found)), len(own))
    return dict(
        answers=len(answered),
        images=len({row['image_id'] for row in answered}),
        detectors=DETECTORS,
        scores=scores,
    )
