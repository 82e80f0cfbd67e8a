# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Transforms: from a record of a dataset to a sample for the model.

A record is a dict with ``images`` (sources that :func:`read_image` reads),
``turns`` (list of :class:`~minigpt4.prompts.Turn`), ``sample_index`` (index
of the sample in the run, which seeds random choices) and other keys for
metrics.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import replace

from mmengine.structures import BaseDataElement

from ..images.jpeg_decoder import jpeg_codec
from ..images.read import load_image
from ..prompts import Turn
from ..prompts.text_validation import check_text, is_blank, json_type
from ..registry import TRANSFORMS
from ..utils.sample_errors import CAPTION, SampleError
from ..utils.text_files import read_text
from .captions import check_caption


@TRANSFORMS.register_module()
class LoadImages:
    """Loads ``images`` (or ``img``, an array from MMPretrain's inferencer).

    Args:
        size: Side of the square images in pixels.
        exact: Whether to load the bits of the official pipeline, or faster
            with values that differ by 1 or 2; see :func:`load_image`.
    """

    def __init__(self, size: int = 224, exact: bool = False) -> None:
        self.size = size
        self.exact = exact
        if not exact:
            jpeg_codec()  # imported once, before data workers are forked

    def __call__(self, record: dict) -> dict:
        """Replace the sources by ``(3, size, size)`` uint8 tensors.

        They are flipped where :class:`DrawFlip` has set ``flipped``.

        Raises:
            SampleError: An image cannot be read.
        """
        sources = record.get('images', [])
        if 'img' in record:
            sources = [record['img']]
        images = [load_image(s, self.size, self.exact) for s in sources]
        if record.get('flipped'):
            images = [image.flip(-1) for image in images]
        return {**record, 'images': images}


@TRANSFORMS.register_module()
class DrawFlip:
    """Decides whether the images of a sample are flipped left to right.

    It precedes :class:`LoadImages` or ``LoadFeatures``, which flip. A sample
    with one of ``words`` in a question or answer is never flipped. The choice
    depends only on ``seed`` and the index of the sample in the run, so a
    resumed run makes the same choice.

    Args:
        prob: Probability of a flip, 0 to 1.
        words: Words that a flip would make wrong.
        seed: Seed.

    Raises:
        ValueError: ``prob`` is not a number from 0 to 1.
    """

    def __init__(
        self,
        prob: float = 0.5,
        words: Sequence[str] = ('left', 'right', 'leftmost', 'rightmost'),
        seed: int = 0,
    ) -> None:
        if not (isinstance(prob, (int, float)) and 0 <= prob <= 1):
            raise ValueError(
                f'prob of DrawFlip is {prob!r}; expected a number from 0 to 1.'
            )
        self.prob = prob
        self.seed = seed
        names = '|'.join(map(re.escape, words)) or '(?!)'
        self._words = re.compile(rf'\b(?:{names})\b', re.IGNORECASE)

    def __call__(self, record: dict) -> dict:
        """Set ``flipped``."""
        index = record.get('sample_index', 0)
        rng = random.Random(f'flip-{self.seed}-{index}')
        texts = (
            text
            for turn in record.get('turns') or ()
            for text in (turn.question, turn.answer)
        )
        flipped = rng.random() < self.prob and not any(
            text and self._words.search(text) for text in texts
        )
        return {**record, 'flipped': flipped}


@TRANSFORMS.register_module()
class CleanCaption:
    """Cleans web captions, the answers of stage 1, as BLIP does.

    Letters become lower case, ``. ! " ( ) * # : ; ~`` become spaces, several
    spaces become one, and words after ``max_words`` are removed.

    Args:
        max_words: Largest number of words.

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
            SampleError: A caption is empty after cleaning, or
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
    """Chooses a random question for a sample that has none.

    A question of the record is kept. The choice depends only on ``seed`` and
    the index of the sample in the run, so a resumed run makes the same
    choice.

    Args:
        questions: A list of strings; one string; or a text file (a name that
            ends in ``.txt``) with one question per line. Blank lines are
            ignored.
        seed: Seed.

    Raises:
        FileNotFoundError: The text file does not exist.
        ValueError: There is no question, or one is not a string, is empty or
            has an invalid character.
    """

    def __init__(
        self, questions: 'str | Sequence[str]', seed: int = 0
    ) -> None:
        self.questions = _read_questions(questions)
        self.seed = seed

    def __call__(self, record: dict) -> dict:
        """Set the first question if it is empty."""
        turns = list(record.get('turns') or [Turn('')])
        if not turns[0].question:
            index = record.get('sample_index', 0)
            rng = random.Random(f'{self.seed}-{index}')
            turns[0] = replace(turns[0], question=rng.choice(self.questions))
        return {**record, 'turns': turns}


def _read_questions(questions: 'str | Sequence[str]') -> list[str]:
    """Return the checked questions of a list, a string or a text file."""
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
            f'{source} are {json_type(questions)}; expected a list of '
            'strings, a string or the name of a .txt file.'
        )
    if not questions:
        raise ValueError(
            f'{source}: no question found; expected at least one.'
        )
    return [
        check_text(question, f'question {i} of {source}')
        for i, question in enumerate(questions, start=1)
    ]


@TRANSFORMS.register_module()
class FormatQuestion:
    """Puts the question of a record into a prompt.

    A record without a question is not changed, and only the first question
    of several turns is.

    Args:
        prompt: The prompt, with ``{question}`` once.

    Raises:
        ValueError: The prompt has no place for a question, or several.
    """

    def __init__(self, prompt: str) -> None:
        self.prompt = check_text(prompt, 'the prompt of FormatQuestion')
        if prompt.count('{question}') != 1:
            raise ValueError(
                f'the prompt of FormatQuestion is {prompt!r}; expected a text '
                "with {question} once, such as '{question} Short answer:'."
            )

    def __call__(self, record: dict) -> dict:
        """Set the first question."""
        turns = list(record['turns'])
        if turns and turns[0].question:
            question = self.prompt.replace('{question}', turns[0].question)
            turns[0] = replace(turns[0], question=question)
        return {**record, 'turns': turns}


@TRANSFORMS.register_module()
class PackSample:
    """Packs a record as a sample for the collator of the model.

    Args:
        keys: Other keys of the record to pack, e.g. for metrics: a list of
            names, or one name.
    """

    def __init__(self, keys: 'str | Sequence[str]' = ()) -> None:
        self.keys = (keys,) if isinstance(keys, str) else tuple(keys)

    def __call__(self, record: dict) -> BaseDataElement:
        """Pack ``images`` and ``turns``, and other keys as metainfo."""
        keys = ('id', *self.keys)
        return BaseDataElement(
            metainfo={key: record[key] for key in keys if key in record},
            images=record['images'],
            turns=record.get('turns') or [Turn('')],
        )
