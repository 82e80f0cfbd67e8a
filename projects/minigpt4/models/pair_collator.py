# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Samples with two answers to batches of chosen and rejected sequences."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from mmengine.logging import print_log
from mmengine.structures import BaseDataElement

from ..prompts import TokenizedPrompt
from ..utils.errors import printable
from .collator import Collator, stack_images
from .packing import build_inputs

_MAX_SKIP_WARNINGS = 20


class PairCollator:
    """Collates pairs of answers for the training of one model.

    Only the last answer of a conversation is supervised. An image is in a
    batch once, for both answers.

    Args:
        collator: The training collator of the model, whose settings are
            used. A pair counts as one sample of ``micro_batch_size``.
    """

    def __init__(self, collator: Collator) -> None:
        self.collator = collator
        self._num_skipped = 0

    def tokenize(self, sample: Any) -> tuple[TokenizedPrompt, TokenizedPrompt]:
        """Render and tokenise a sample with each of its answers.

        Args:
            sample: ``images``, ``turns`` with the chosen answer as the last,
                and the text ``rejected``.

        Raises:
            ValueError: As :meth:`Collator.tokenize`, or the sample has no
                rejected answer.
        """
        rejected = sample.get('rejected')
        if not isinstance(rejected, str):
            raise ValueError(
                f'sample {_name(sample)} has no '
                'rejected answer; expected samples of PreferenceDataset, with '
                "PackSample(keys=('rejected',)) in its pipeline."
            )
        other = BaseDataElement(
            metainfo=dict(id=sample.get('id', '?')),
            images=sample.images,
            turns=[
                *sample.turns[:-1],
                replace(sample.turns[-1], answer=rejected),
            ],
        )
        return (
            _only_last_answer(self.collator.tokenize(sample)),
            _only_last_answer(self.collator.tokenize(other)),
        )

    def __call__(self, samples: Sequence) -> dict:
        """Collate samples.

        Args:
            samples: The samples, None for one that could not be read.

        Returns:
            ``pieces`` as of :class:`Collator`, the ``inputs`` of each with
            the chosen sequences of all its samples, then the rejected ones;
            and ``counts``.
        """
        good: list[tuple[Any, TokenizedPrompt, TokenizedPrompt]] = []
        for sample in samples:
            if sample is None:
                continue
            pair = self.tokenize(sample)
            if self._is_usable(sample, pair):
                good.append((sample, *pair))
        prompts = [prompt for _, *pair in good for prompt in pair]
        size = self.collator.micro_batch_size or max(len(good), 1)
        return dict(
            counts=dict(
                samples=len(good),
                tokens=sum(map(self.collator.length, prompts)),
                skipped=len(samples) - len(good),
                truncated=sum(prompt.truncated for prompt in prompts),
            ),
            pieces=[
                self._collate(good[i : i + size])
                for i in range(0, len(good), size)
            ],
        )

    def _is_usable(
        self, sample: Any, pair: tuple[TokenizedPrompt, TokenizedPrompt]
    ) -> bool:
        """Whether both prompts fit and differ; warns where they do not."""
        if pair[0].ids != pair[1].ids:
            return all(
                self.collator.is_within_limit(sample, prompt)
                for prompt in pair
            )
        self._num_skipped += 1
        if self._num_skipped <= _MAX_SKIP_WARNINGS:
            print_log(
                f'skipped: sample {_name(sample)} has two answers of the '
                'same tokens; expected that they differ within '
                'model.max_text_length.',
                logger='current',
                level=logging.WARNING,
            )
        return False

    def _collate(
        self, good: Sequence[tuple[Any, TokenizedPrompt, TokenizedPrompt]]
    ) -> dict:
        samples, chosen, rejected = zip(*good, strict=True)
        images = [image for sample in samples for image in sample.images]
        return dict(
            images=stack_images(images) if images else None,
            inputs=build_inputs(
                [*chosen, *rejected],
                self.collator.num_image_tokens,
                self.collator.padding,
                self.collator.pack_length,
                self.collator.share_prefix,
            ),
        )


def _name(sample: Any) -> str:
    return printable(str(sample.get('id', '?')))[:200]


def _only_last_answer(prompt: TokenizedPrompt) -> TokenizedPrompt:
    """Supervise only the last run of supervised tokens."""
    supervised = list(prompt.supervised)
    position = len(supervised) - supervised[::-1].index(True) - 1
    while position >= 0 and supervised[position]:
        position -= 1
    supervised[: position + 1] = [False] * (position + 1)
    return replace(prompt, supervised=supervised)
