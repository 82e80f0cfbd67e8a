# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""All measures of one answer, together and as JSON."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.structures import BaseDataElement
from torch import Tensor

from ..models import MiniGPT4
from .answer import ExplainedAnswer, answer_greedily, encode_pixels
from .image_regions import ImageRegions, embed_with_regions
from .omitted_tokens import OmissionLosses, losses_with_omissions
from .token_words import NearWord, nearest_words
from .word_attention import token_attention, word_attention

FORMAT = 'minigpt4 explain 1'
_DIGITS = 4  # significant digits of the JSON


@dataclass
class Explanation:
    """Measures of an answer of ``W`` words and an image of ``Q`` tokens.

    Attributes:
        answer: The answer.
        regions: The parts of the image behind the image tokens.
        near_words: For each image token the nearest words of the vocabulary.
        attention: ``(W, Q)``, the attention of each word; sums to 1 over the
            image tokens.
        attention_to_image: ``(W,)``, the share of the whole attention that
            the image tokens have.
        losses: Losses of the words with all image tokens, without each, and
            without any.
    """

    answer: ExplainedAnswer
    regions: ImageRegions
    near_words: list[list[NearWord]]
    attention: Tensor
    attention_to_image: Tensor
    losses: OmissionLosses

    def to_json(self) -> dict[str, Any]:
        """The numbers, rounded to four digits; shapes in docs/explain.md."""
        regions, words = self.regions, self.answer.words
        increase = self.losses.increase
        return dict(
            format=FORMAT,
            answer=self.answer.text,
            finished=self.answer.finished,
            grid=regions.grid and list(regions.grid),
            regions=regions.kind,
            layers=regions.layers,
            image_tokens=dict(
                names=regions.names,
                near_words=[
                    [[word.text, _rounded(word.similarity)] for word in row]
                    for row in self.near_words
                ],
                maps=_numbers(regions.maps) if regions.grid else None,
                layer_maps=_numbers(regions.layer_maps),
                class_share=_numbers(regions.class_share),
            ),
            words=dict(
                texts=[word.text for word in words],
                blanks=[word.before for word in words],
                tokens=[word.stop - word.start for word in words],
                attention=_numbers(self.attention),
                attention_to_image=_numbers(self.attention_to_image),
                attention_maps=_numbers(
                    weighted_maps(self.attention, regions)
                ),
                loss=_numbers(self.losses.complete),
                loss_increase=_numbers(increase),
                loss_increase_without_image=_numbers(
                    self.losses.increase_without_image
                ),
                loss_increase_maps=_numbers(
                    weighted_maps(increase.clamp_min(0).float(), regions)
                ),
            ),
        )


def explain(
    model: MiniGPT4,
    sample: BaseDataElement,
    max_new_tokens: int | None = None,
    batch_size: int = 16,
    num_near_words: int = 5,
    progress: Callable[[int, int], object] | None = None,
) -> Explanation:
    """Answer a question about an image, and measure the answer.

    Args:
        model: The model, in eval mode.
        sample: One image ``(3, H, W)`` uint8 and a question; see
            :func:`~minigpt4.captioning.inferencer.make_sample`.
        max_new_tokens: The most tokens of the answer.
        batch_size: Sequences of one forward pass.
        num_near_words: Nearest words of each image token.
        progress: Called after each forward pass with the sequences that are
            done and their number.

    Raises:
        ValueError: See :func:`~.answer.answer_greedily`; or the LLM does not
            return its attention.
    """
    answer = answer_greedily(model, sample, max_new_tokens)
    image_tokens, regions = embed_with_regions(
        model, encode_pixels(model, sample)
    )
    attention, share = word_attention(
        token_attention(model, answer.inputs, image_tokens), answer.words
    )
    done, total = 0, model.num_image_tokens + 2

    def advance(number: int) -> None:
        nonlocal done
        done += number
        if progress is not None:
            progress(done, total)

    losses = losses_with_omissions(
        model, answer.inputs, image_tokens, batch_size, advance
    )
    return Explanation(
        answer,
        regions,
        nearest_words(model, image_tokens[0], num_near_words),
        attention,
        share,
        losses.of_words(answer.words),
    )


def weighted_maps(weights: Tensor, regions: ImageRegions) -> Tensor | None:
    """Add up the maps of image tokens.

    Args:
        weights: ``(W, Q)``, not negative.
        regions: The maps.

    Returns:
        ``(W, h, w)``; each sums to 1, or is 0 where no token with a part of
        the image has a weight. None where no token has one.
    """
    if regions.grid is None:
        return None
    maps = torch.einsum('wq,qij->wij', weights.to(regions.maps), regions.maps)
    total = maps.sum((1, 2), keepdim=True)
    return torch.where(total > 1e-12, maps / total.clamp_min(1e-12), 0)


def _rounded(number: float) -> float:
    return float(f'{number:.{_DIGITS}g}')


def _numbers(tensor: Tensor | None) -> Any:
    """A tensor as nested lists of rounded numbers; None for NaN."""

    def rounded(values: Any) -> Any:
        if isinstance(values, Sequence):
            return [rounded(value) for value in values]
        if not math.isfinite(values):
            return None
        number = _rounded(values)
        return int(number) if number == int(number) else number

    return None if tensor is None else rounded(tensor.tolist())
