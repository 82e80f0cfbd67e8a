# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Pipeline steps: from a record of a dataset to a sample of the model.

A record is a dict with ``images`` (sources that :func:`read_image` reads),
``turns`` (list of :class:`~minigpt4.prompts.Turn`), ``draw`` (place in the
endless stream of training samples, which seeds what is drawn) and anything
else that metrics want.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import replace

from mmengine.structures import BaseDataElement

from ..images.read import SampleError, load_image
from ..prompts.prompt import Turn
from ..prompts.text_checks import check_text, is_blank, kind_of
from ..registry import TRANSFORMS
from ..utils.fault_log import CAPTION
from ..utils.regular_files import read_text
from .captions import check_caption


@TRANSFORMS.register_module()
class LoadImages:
    """Reads ``images`` (or ``img``, an array from MMPretrain's inferencer).

    Args:
        size: Side of the square images in pixels.
        exact: Whether to give the official pipeline's bits, or the faster
            way, whose values are next to equal; see :func:`load_image`.
    """

    def __init__(self, size: int = 224, exact: bool = False) -> None:
        self.size = size
        self.exact = exact

    def __call__(self, record: dict) -> dict:
        """Replace the sources by ``(3, size, size)`` uint8 tensors."""
        sources = record.get('images', [])
        if 'img' in record:
            sources = [record['img']]
        images = [load_image(s, self.size, self.exact) for s in sources]
        return {**record, 'images': images}


@TRANSFORMS.register_module()
class CleanCaption:
    """Cleans web captions as BLIP does: stage 1's answers.

    Lower case; ``. ! " ( ) * # : ; ~`` become spaces; runs of spaces
    collapse; the first ``max_words`` words stay.

    Args:
        max_words: The most words.

    Source: MiniGPT-4 ``BlipCaptionProcessor`` of
    ``processors/blip_processors.py`` @ d94738a.
    """

    def __init__(self, max_words: int = 50) -> None:
        self.max_words = max_words

    def clean(self, text: str) -> str:
        """Clean one caption."""
        text = re.sub(r'[.!"()*#:;~]', ' ', text.lower())
        text = re.sub(r'\s{2,}', ' ', text).rstrip('\n').strip(' ')
        return ' '.join(text.split(' ')[: self.max_words])

    def __call__(self, record: dict) -> dict:
        """Clean every answer.

        Raises:
            SampleError: Nothing is left of a caption, or
                :func:`~minigpt4.datasets.captions.check_caption` refuses it.
        """
        turns = []
        for turn in record['turns']:
            where = f'the caption of {record.get("id")}'
            answer = self.clean(check_caption(turn.answer, where))
            if is_blank(answer):
                raise SampleError(
                    f'the caption {turn.answer[:80]!r} of {record.get("id")} '
                    'is empty; expected some words.',
                    CAPTION,
                )
            turns.append(replace(turn, answer=answer))
        return {**record, 'turns': turns}


@TRANSFORMS.register_module()
class DrawQuestion:
    """Draws the question of a description: one for each sample.

    Questions that stand in the data stay. What is drawn depends on ``seed``
    and the sample's place in the stream alone, so a resumed run draws the
    same.

    Args:
        questions: To draw from: a list of texts; one text, which is then
            always asked; or a text file (a name that ends in ``.txt``) with
            one question in each line that is not blank.
        seed: Seed.

    Raises:
        FileNotFoundError: The text file does not exist.
        ValueError: There is no question, or one is not a text, is empty or
            holds characters that no prompt may hold.
    """

    def __init__(
        self, questions: 'str | Sequence[str]', seed: int = 0
    ) -> None:
        self.questions = _read_questions(questions)
        self.seed = seed

    def __call__(self, record: dict) -> dict:
        """Fill the first question where it is empty."""
        turns = list(record.get('turns') or [Turn('')])
        if not turns[0].question:
            rng = random.Random(f'{self.seed}-{record.get("draw", 0)}')
            turns[0] = replace(turns[0], question=rng.choice(self.questions))
        return {**record, 'turns': turns}


def _read_questions(questions: 'str | Sequence[str]') -> list[str]:
    """The checked questions of a list, a text or a text file."""
    source = 'the questions of DrawQuestion'
    if isinstance(questions, str) and questions.endswith('.txt'):
        source = questions
        try:
            lines = read_text(questions).splitlines()
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f'{questions} does not exist; expected a text file with one '
                'question per line (DrawQuestion.questions).'
            ) from error
        questions = [line.strip() for line in lines if line.strip()]
    elif isinstance(questions, str):
        questions = [questions]
    if not isinstance(questions, (list, tuple)):
        raise ValueError(
            f'{source} are {kind_of(questions)}; expected a list of texts, a '
            'text or the name of a .txt file.'
        )
    if not questions:
        raise ValueError(f'{source}: there is none; expected at least one.')
    return [
        check_text(question, f'question {i} of {source}')
        for i, question in enumerate(questions, start=1)
    ]


@TRANSFORMS.register_module()
class PackSample:
    """The end of a pipeline: a sample as the model's collator takes it.

    Args:
        keys: What else of the record goes along, e.g. for metrics: names, or
            one name.
    """

    def __init__(self, keys: 'str | Sequence[str]' = ()) -> None:
        self.keys = (keys,) if isinstance(keys, str) else tuple(keys)

    def __call__(self, record: dict) -> BaseDataElement:
        """Pack ``images`` and ``turns``, the rest as meta information."""
        kept = ('id', *self.keys)
        return BaseDataElement(
            metainfo={key: record[key] for key in kept if key in record},
            images=record['images'],
            turns=record.get('turns') or [Turn('')],
        )
