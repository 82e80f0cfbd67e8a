# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The questions of a protocol as a data set of ``tools/test.py``."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.logging import print_log
from torch.utils.data import Dataset

from ..datasets.skipped_samples import SkippingPipeline
from ..prompts import Turn
from ..registry import DATASETS
from ..utils.errors import printable
from .question_protocols import get_question_protocol
from .questions import check_prompt, read_questions


@DATASETS.register_module()
class QuestionDataset(Dataset):
    """Questions of an official file whose images exist.

    A sample has ``images``, ``turns``, ``id``, and ``image``, ``truth`` and
    ``choices`` for :class:`~.metrics.QuestionMetric`.

    Args:
        protocol: Name of the protocol, such as ``'pope'``.
        questions: The official file of the questions, or of the annotations
            of VQAv2 and OK-VQA.
        images: The folder of the images.
        question_texts: The file of the questions of VQAv2 and OK-VQA; None
            for the one next to the annotations.
        prompt: The prompt, with ``{question}``; None for the protocol's.
        limit: Use the first questions; None for all.
        pipeline: The steps, with ``LoadImages`` and
            ``PackSample(keys=('image', 'truth', 'choices'))``.

    Attributes:
        num_omitted: Number of questions that are not among the samples,
            because the record cannot be used or has no image.

    Raises:
        FileNotFoundError: A file or folder does not exist.
        ValueError: An argument is invalid, or there is no question.
    """

    metainfo: dict = {}

    def __init__(
        self,
        protocol: str,
        questions: str,
        images: str,
        question_texts: str | None = None,
        prompt: str | None = None,
        limit: int | None = None,
        pipeline: Sequence[dict] = (),
    ) -> None:
        chosen = get_question_protocol(protocol)
        prompt = chosen.prompt if prompt is None else prompt
        check_prompt(prompt)
        source = Path(questions)
        texts = None if question_texts is None else Path(question_texts)
        found = read_questions(
            chosen,
            chosen.items(source, texts),
            source,
            Path(images),
            prompt,
            limit,
        )
        self.asked = found.asked
        self.pipeline = SkippingPipeline(pipeline)
        omitted = len(found.skipped), len(found.without_image)
        self.num_omitted = sum(omitted)
        if any(omitted):
            first = (*found.skipped, *found.without_image)[0]
            print_log(
                f'{source}: {omitted[0]} records cannot be used, and '
                f'{omitted[1]} have no image in {images} (the first: '
                f'{first}).',
                logger='current',
                level=logging.WARNING,
            )

    def __len__(self) -> int:
        return len(self.asked)

    def __getitem__(self, index: int) -> Any:
        """The sample of a question; None if its image cannot be read."""
        question, file, prompt = self.asked[index]
        record = dict(
            id=question.id,
            image=question.image,
            truth=question.truth,
            choices=question.choices,
            images=[file],
            turns=[Turn(prompt)],
        )
        return self.pipeline.run(
            f'question {printable(str(question.id))[:60]}', lambda: record
        )

    @property
    def num_skipped(self) -> int:
        """Samples that all data workers of this rank have skipped."""
        return self.pipeline.num_skipped

    @property
    def error_counts(self) -> dict[str, int]:
        """Skipped samples by reason, of all data workers of this rank."""
        return self.pipeline.totals()
