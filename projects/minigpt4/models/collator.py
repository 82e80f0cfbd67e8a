# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Samples to batches: rendered, tokenised and packed in the data workers.

So that the training process only embeds tokens, copies the image features to
their positions and calls the LLM.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from mmengine.logging import print_log
from torch import Tensor
from torch.utils.data import default_collate

from ..prompts import (
    IMAGE_HERE,
    Template,
    TokenizedPrompt,
    render,
    tokenize,
    with_images,
)
from ..prompts.image_slots import check_image_slots
from ..prompts.text_validation import check_text
from ..utils.errors import printable
from .packing import MultimodalInputs, build_inputs

__all__ = ['Collator', 'MultimodalInputs', 'build_inputs']

_MAX_SKIP_WARNINGS = 20


def stack_images(images: Sequence[Tensor]) -> Tensor:
    """Stack images to ``(N, 3, H, W)``, or stored queries to ``(N, Q, C)``.

    The channels of a pixel stay next to each other in memory, as decoders
    write them, and a data worker copies images directly into shared memory.
    """
    if images[0].ndim < 3:
        return default_collate(list(images))
    channels_last = [image.permute(1, 2, 0) for image in images]
    return default_collate(channels_last).permute(0, 3, 1, 2)


def log_skipped(batch: dict) -> None:
    """Log how many samples of a batch were skipped, if any.

    Args:
        batch: A batch of a :class:`Collator`.
    """
    skipped = batch.get('counts', {}).get('skipped')
    if skipped:
        print_log(
            f'{skipped} samples could not be read or are too long; they '
            'are not in the scores.',
            logger='current',
            level=logging.WARNING,
        )


class Collator:
    """Collates samples for one model.

    Created by :meth:`MiniGPT4.collator`, so that the LLM and the template are
    configured once.

    Args:
        tokenizer: The LLM's tokenizer.
        template: The prompt template.
        num_image_tokens: Tokens of one image.
        max_text_length: The most tokens of an answer (training).
        padding: ``'right'`` (training) or ``'left'`` (generation).
        prompt: The question of a sample that has none.
        micro_batch_size: The most samples of a piece of a training batch.
        pack_length: See :func:`build_inputs`.
        share_prefix: See :func:`build_inputs`.
        max_length: The most tokens of a prompt, images included. A longer
            sample is skipped with a warning and counted. None is no limit.
        system: The system message of a prompt; see
            :func:`~minigpt4.prompts.conversation.render`.
    """

    def __init__(
        self,
        tokenizer: Any,
        template: Template,
        num_image_tokens: int,
        max_text_length: int | None = None,
        padding: str = 'right',
        prompt: str = '',
        micro_batch_size: int | None = None,
        pack_length: float | None = None,
        share_prefix: bool = False,
        max_length: int | None = None,
        system: str | None = None,
    ) -> None:
        self.system = system
        self.max_length = max_length
        self._num_skipped = 0
        self.prompt = prompt
        self.micro_batch_size = micro_batch_size
        self.pack_length = pack_length
        self.share_prefix = share_prefix
        self.tokenizer = tokenizer
        self.template = template
        self.num_image_tokens = num_image_tokens
        self.max_text_length = max_text_length
        self.padding = padding

    def tokenize(self, sample: Any) -> TokenizedPrompt:
        """Render and tokenise one sample.

        Raises:
            ValueError: The prompt has more or fewer image slots than images,
                or a question that
                :func:`~minigpt4.prompts.text_validation.check_text` refuses.
        """
        turns = [
            replace(
                turn,
                question=check_text(
                    turn.question, 'the question', allow_empty=True
                ),
            )
            for turn in sample.turns
        ]
        turns[0] = replace(
            turns[0],
            question=with_images(
                turns[0].question or self.prompt,
                len(sample.images)
                if all(IMAGE_HERE not in turn.question for turn in turns)
                else 0,
                self.template,
            ),
        )
        prompt = tokenize(
            render(turns, self.template, self.system),
            self.tokenizer,
            self.max_text_length,
        )
        check_image_slots(
            prompt.num_images,
            len(sample.images),
            'the prompt',
            f' (sample {sample.get("id", "?")})',
        )
        return prompt

    def length(self, prompt: TokenizedPrompt) -> int:
        """Tokens of a prompt, those of its images included."""
        image_tokens = prompt.num_images * (self.num_image_tokens - 1)
        return len(prompt.ids) + image_tokens

    def is_within_limit(self, sample: Any, prompt: TokenizedPrompt) -> bool:
        """Whether a prompt is within ``max_length``; warns where it is not."""
        length = self.length(prompt)
        if self.max_length is None or length <= self.max_length:
            return True
        self._num_skipped += 1
        if self._num_skipped <= _MAX_SKIP_WARNINGS:
            name = printable(str(sample.get('id', '?')))[:200]
            print_log(
                f'skipped: sample {name} has {length} tokens, at most '
                f'{self.max_length} fit into the context of the LLM; shorten '
                'its text.',
                logger='current',
                level=logging.WARNING,
            )
        return False

    def __call__(self, samples: Sequence) -> dict:
        """Collate samples.

        Args:
            samples: The samples, None for one that could not be read.

        Returns:
            For training ``pieces``, a list of dicts of ``images`` ``(N, 3, H,
            W)`` uint8 (None without any) and ``inputs``
            (:class:`MultimodalInputs`), each of at most ``micro_batch_size``
            samples. For generation ``images`` and ``inputs`` (None where no
            sample could be read) and the ``samples`` that could be read.
            Always ``counts``, of ``samples``, ``tokens``, ``skipped``
            samples and ``truncated`` answers, and from a stream its
            ``position``.
        """
        good, prompts = [], []
        for sample in samples:
            if sample is None:
                continue
            prompt = self.tokenize(sample)
            if self.is_within_limit(sample, prompt):
                good.append(sample)
                prompts.append(prompt)
        batch: dict = dict(
            counts=dict(
                samples=len(good),
                tokens=sum(map(self.length, prompts)),
                skipped=len(samples) - len(good),
                truncated=sum(prompt.truncated for prompt in prompts),
            )
        )
        if self.padding == 'left':
            batch['samples'] = good
            batch |= self._collate(good, prompts)
        else:
            size = self.micro_batch_size or max(len(good), 1)
            batch['pieces'] = [
                self._collate(good[i : i + size], prompts[i : i + size])
                for i in range(0, len(good), size)
            ]
        if hasattr(samples, 'position'):
            batch['position'] = samples.position
        return batch

    def _collate(
        self, samples: Sequence, prompts: Sequence[TokenizedPrompt]
    ) -> dict:
        """``images`` and ``inputs`` of some samples."""
        images = [image for sample in samples for image in sample.images]
        return dict(
            images=stack_images(images) if images else None,
            inputs=build_inputs(
                prompts,
                self.num_image_tokens,
                self.padding,
                self.pack_length,
                self.share_prefix,
            )
            if prompts
            else None,
        )
