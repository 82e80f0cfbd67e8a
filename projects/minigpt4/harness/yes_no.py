# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Questions on objects with yes or no, as POPE has them, and their scores.

Source: POPE (Li et al. 2023, "Evaluating Object Hallucination in Large
Vision-Language Models").
"""

import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Literal, get_args

Negatives = Literal['random', 'popular', 'adversarial']
_MAX_OBJECTS = 3  # of one image and one answer
_NEGATIONS = {'no', 'not'}


def object_questions(
    truth: Mapping[str, Sequence[str]], negatives: Negatives, seed: int = 0
) -> list[dict[str, str]]:
    """Ask for objects that images have, and for as many that they do not.

    An image with at least one class gets up to three questions of each
    answer.

    Args:
        truth: The classes in each image, by its id.
        negatives: Which other classes are asked for: any, those of most
            images, or those that are most often together with the classes
            of the image.
        seed: Seed of the classes that are chosen at random.

    Returns:
        ``image_id``, ``question`` and ``answer`` of each, in the order of
        the images, positive and negative in turn.
    """
    if negatives not in get_args(Negatives):
        raise ValueError(
            f'negatives is {negatives!r}; expected one of '
            f'{", ".join(get_args(Negatives))}.'
        )
    generator = random.Random(seed)
    counts = Counter(name for names in truth.values() for name in set(names))
    pairs: Counter[tuple[str, str]] = Counter()
    for names in truth.values():
        pairs.update(combinations(sorted(set(names)), 2))
    rows = []
    for image, names in truth.items():
        present = sorted(set(names))
        absent = sorted(set(counts) - set(names))
        number = min(_MAX_OBJECTS, len(present), len(absent))
        if negatives == 'random':
            chosen = generator.sample(absent, number)
        else:
            together = {
                name: sum(
                    pairs[min(name, other), max(name, other)]
                    for other in present
                )
                for name in absent
            }
            key = counts if negatives == 'popular' else together
            # equal ones by name
            chosen = sorted(absent, key=lambda name: (-key[name], name))
        asked = generator.sample(present, number)
        for yes, no in zip(asked, chosen, strict=False):
            for name, answer in ((yes, 'yes'), (no, 'no')):
                article = 'an' if name[0] in 'aeiou' else 'a'
                question = f'Is there {article} {name} in the image?'
                rows.append(
                    dict(image_id=image, question=question, answer=answer)
                )
    return rows


def read_answer(text: str) -> Literal['yes', 'no', '']:
    """Read an answer as POPE does: no if its first sentence negates.

    An empty text, that of a request that failed, is no answer.
    """
    if not text:
        return ''
    sentence = text.split('.')[0]
    words = re.findall(r"[a-z']+", sentence.lower())
    return 'no' if _NEGATIONS.intersection(words) else 'yes'


def yes_no_scores(
    answers: Sequence[tuple[str, str]],
) -> dict[str, float]:
    """Compute POPE's scores.

    Args:
        answers: The right and the given answer of each question, ``'yes'``
            or ``'no'``. Another given answer is wrong.

    Returns:
        ``accuracy``, ``precision``, ``recall`` and ``f1`` of "yes", and
        ``yes_ratio``, the share of questions that are answered "yes". A score
        whose denominator is 0 is 0.
    """
    counts = Counter(answers)
    right_yes = counts['yes', 'yes']
    given_yes = right_yes + counts['no', 'yes']
    true_yes = sum(right == 'yes' for right, _ in answers)

    def share(part: float, whole: float) -> float:
        return part / whole if whole else 0.0

    return dict(
        accuracy=share(right_yes + counts['no', 'no'], len(answers)),
        precision=share(right_yes, given_yes),
        recall=share(right_yes, true_yes),
        f1=share(2 * right_yes, given_yes + true_yes),
        yes_ratio=share(given_yes, len(answers)),
    )
