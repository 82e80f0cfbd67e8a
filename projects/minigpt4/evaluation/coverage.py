# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The protocol ``coverage``: do captions cover a reference caption?

A judge, who sees no image, compares each caption with one reference caption
of its image. Source: paper section 4.2 and appendix A.3 (arXiv:2304.10592).
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..images.image_ids import ImageIds, image_id
from ..utils.errors import printable
from .judge import (
    JudgeQuestion,
    decisions,
    judge_facts,
    unanswered,
)
from .proportions import share
from .unknown_ids import name_unknown

# word for word, with its quotation marks
JUDGE_PROMPT = (
    'There is one image caption1 ‘{reference}’, and there is another image '
    'caption2 ‘{caption}’. Does image caption2 cover all the objects and '
    'visual relations shown in image caption1? Only answer yes or no without '
    'any explanation.'
)
CAPTION_PROMPT = 'Describe this image in detail.'  # the paper names none
# the other sampling parameters are the model's own
GENERATION: dict[str, Any] = dict(do_sample=False, max_new_tokens=300)
REFERENCES = ('random', 'first')
PUBLISHED = (
    ('BLIP-2', 1376, 5000),
    ('MiniGPT-4', 3310, 5000),
)


def judge_message(reference: str, caption: str) -> str:
    """The message to the judge about a caption."""
    # in one pass: a caption may have braces
    before, rest = JUDGE_PROMPT.split('{reference}')
    between, after = rest.split('{caption}')
    return f'{before}{reference}{between}{caption}{after}'


def choose_reference(
    id_: str, captions: Sequence[str], choice: str, seed: int
) -> str:
    """The reference caption of an image.

    Args:
        id_: Id of the image.
        captions: Its captions, at least one.
        choice: ``'random'``: by seed and id, whatever other images there
            are; ``'first'``.
        seed: Of the random choice.
    """
    if choice == 'first':
        return captions[0]
    digest = hashlib.sha256(f'{seed} {id_}'.encode()).digest()
    return captions[int.from_bytes(digest[:8], 'big') % len(captions)]


class References:
    """One reference caption of each image.

    Args:
        captions: The captions by id, see
            :func:`~.captioned_images.read_references`.
        choice: See :func:`choose_reference`.
        seed: As ``choice``.

    Attributes:
        ids: The ids of the images.
    """

    def __init__(
        self, captions: Mapping[str, Sequence[str]], choice: str, seed: int
    ) -> None:
        self._captions = captions
        self._choice, self._seed = choice, seed
        self.ids = list(captions)
        self._ids = ImageIds(captions)

    def find(self, id_or_file: object) -> tuple[str, str] | None:
        """Id and reference of an image; None if it has no caption.

        Args:
            id_or_file: Its id, or its file.
        """
        key = self._ids.find(id_or_file)
        if key is None:
            return None
        id_ = image_id(key, ())
        reference = choose_reference(
            id_, self._captions[key], self._choice, self._seed
        )
        return id_, reference


def judge_questions(
    rows: Sequence[Mapping[str, Any]], references: References, source: Path
) -> tuple[list[JudgeQuestion], list[str]]:
    """What to ask about captions.

    Args:
        rows: ``image_id`` and ``caption`` of each.
        references: The reference captions.
        source: The file of the captions, for errors.

    Returns:
        The questions, and the ids of the captions without a reference.

    Raises:
        ValueError: Two captions are of one image, or none has a reference.
    """
    questions: dict[str, JudgeQuestion] = {}
    without: list[str] = []
    for row in rows:
        found = references.find(row['image_id'])
        if found is None:
            without.append(str(row['image_id']))
            continue
        id_, reference = found
        if id_ in questions:
            raise ValueError(
                f'{source} has two captions of the image {printable(id_)}; '
                'expected one of each image.'
            )
        caption = row['caption']
        questions[id_] = JudgeQuestion(
            id_,
            judge_message(reference, caption),
            dict(image_id=id_, reference=reference, caption=caption),
        )
    if not questions:
        unknown = name_unknown(without, references.ids, '--annotations')
        raise ValueError(
            f'none of the {len(rows):,} captions of {source} is of an image '
            f'with a reference caption{unknown}; expected the same image ids '
            'in both.'
        )
    return list(questions.values()), without


def score_coverage(
    rows: Sequence[dict[str, Any]], parser: str = 'first-word'
) -> dict[str, Any]:
    """Compute the scores of ``coverage``.

    Args:
        rows: Of ``judgements.jsonl``.
        parser: See :func:`~.judge.parse_yes_no`.

    Returns:
        ``judged``, ``yes``, ``no``, ``unparsed`` (counts), ``scores`` with
        ``coverage`` (yes / judged; an unparsed answer is no yes), ``judge``
        (name, dates, tokens, cost) and ``errors`` (captions without a usable
        answer, which are not counted).

    Raises:
        ValueError: There is no answer.
    """
    found, counts = decisions(rows, parser)
    errors = [
        dict(image_id=row['key'], error=row['problem'])
        for row in unanswered(rows)
    ]
    if not found:
        reason = f' ({errors[0]["error"]})' if errors else ''
        raise ValueError(f'the judge has answered about no caption{reason}')
    return dict(
        judged=len(found),
        yes=counts['yes'],
        no=counts['no'],
        unparsed=counts['unparsed'],
        parser=parser,
        scores=dict(coverage=share(counts['yes'], len(found))),
        judge=judge_facts(rows),
        errors=errors,
    )
