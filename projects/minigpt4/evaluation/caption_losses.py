# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Losses of given captions with given images, in batches."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from mmengine.structures import BaseDataElement
from torch import Tensor

from ..models import MiniGPT4
from ..models.packing import build_inputs
from ..prompts import Template, TokenizedPrompt, Turn


class CaptionLoss(NamedTuple):
    """The loss of a caption.

    Attributes:
        loss: Mean over the tokens of the caption and its end symbol, nats.
        tokens: Number of these tokens.
    """

    loss: float
    tokens: int


class CaptionScorer:
    """Computes losses with the forward pass of training, without gradients.

    Captions are never cut, whatever the config's ``max_text_length``.

    Args:
        model: The model, in eval mode.
        template: The prompt template; None is the model's own.
        prompt: The question of a caption without one; None is that of the
            model, and none with the template ``bare``.
        batch_size: Sequences of one forward pass.
    """

    def __init__(
        self,
        model: MiniGPT4,
        template: Template | None = None,
        prompt: str | None = None,
        batch_size: int = 64,
    ) -> None:
        self.model = model
        self.batch_size = batch_size
        self._collator = model.collator(training=True)
        self._collator.max_text_length = None
        if template is not None:
            self._collator.template = template
        self.template = self._collator.template
        if prompt is None:
            prompt = '' if self.template.name == 'bare' else model.prompt
        self._collator.prompt = self.prompt = prompt

    @torch.no_grad()
    def encode(self, images: Sequence[Tensor]) -> Tensor:
        """Image tokens ``(N, Q, hidden_size)`` of uint8 images.

        Args:
            images: ``(3, H, W)`` each.
        """
        pixels = self.model.data_preprocessor.normalize(torch.stack([*images]))
        return self.model.embed_images(pixels)

    def tokenize(self, question: str, caption: str) -> TokenizedPrompt:
        """Tokenise a caption after one image.

        Raises:
            ValueError: It has more than one image slot, an invalid
                character, or is too long for the context of the LLM.
        """
        sample = BaseDataElement(
            images=[None], turns=[Turn(question, caption)]
        )
        prompt = self._collator.tokenize(sample)
        length = self._collator.length(prompt)
        limit = self._collator.max_length
        if limit is not None and length > limit:
            raise ValueError(
                f'the caption has {length} tokens with its prompt, but '
                f'{limit} fit into the context of the LLM; shorten it.'
            )
        return prompt

    @torch.no_grad()
    def losses(
        self, pairs: Sequence[tuple[TokenizedPrompt, Tensor]]
    ) -> Iterator[CaptionLoss]:
        """Yield the loss of each caption with an image.

        Args:
            pairs: A caption of :meth:`tokenize` and the image tokens ``(Q,
                hidden_size)`` of one image.
        """
        for start in range(0, len(pairs), self.batch_size):
            batch = pairs[start : start + self.batch_size]
            prompts = [prompt for prompt, _ in batch]
            inputs = build_inputs(
                prompts,
                self._collator.num_image_tokens,
                'right',
                self._collator.pack_length,
                self._collator.share_prefix,
            )
            data = self.model.data_preprocessor(
                dict(images=None, inputs=inputs)
            )
            image_tokens = torch.stack([tokens for _, tokens in batch])
            losses = self.model.token_losses(
                None, data['inputs'], image_tokens
            ).double()
            counts = [sum(prompt.supervised) for prompt in prompts]
            for part in losses.cpu().split(counts):
                yield CaptionLoss(float(part.mean()), len(part))
