# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Checked generation requests from prompts."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..models import MiniGPT4
from ..prompts import TokenizedPrompt
from ..prompts.image_slots import check_image_slots
from .detokenizer import Detokenizer
from .prefix_cache import image_digest, make_cache_key
from .request import GenerationRequest
from .sampler import Sampler
from .sampling_params import SamplingParams


def prompt_request(
    model: MiniGPT4,
    prompt: TokenizedPrompt,
    images: Sequence[Tensor],
    settings: Mapping[str, Any],
    advance: Callable[[], bool],
) -> GenerationRequest:
    """Build a request from a tokenised prompt.

    Args:
        model: The model.
        prompt: The prompt.
        images: ``(3, H, W)`` uint8, one for each image slot.
        settings: Sampling parameters over the model's own.
        advance: See :class:`GenerationRequest`.

    Raises:
        ValueError: Images and image slots do not match, the prompt is empty
            or too long, or a parameter is unknown.
    """
    _check_images(model, prompt, images)
    digests = [image_digest(image) for image in images]
    return _build(
        model,
        make_cache_key(prompt.ids, digests, model.num_image_tokens),
        settings,
        advance,
        images=dict(zip(digests, images, strict=True)),
    )


def embeddings_request(
    model: MiniGPT4,
    embeddings: Tensor,
    cache_key: list[int] | None,
    settings: Mapping[str, Any],
    advance: Callable[[], bool],
) -> GenerationRequest:
    """Build a request from ``(T, hidden_size)`` embeddings of a prompt.

    Without a cache key it does not use the prefix cache, and its own key only
    counts positions.
    """
    return _build(
        model,
        [0] * len(embeddings) if cache_key is None else cache_key,
        settings,
        advance,
        embeddings=embeddings,
        uses_prefix_cache=cache_key is not None,
    )


def _build(
    model: MiniGPT4,
    cache_key: list[int],
    settings: Mapping[str, Any],
    advance: Callable[[], bool],
    images: Mapping[int, Tensor] | None = None,
    embeddings: Tensor | None = None,
    uses_prefix_cache: bool = True,
) -> GenerationRequest:
    params = SamplingParams.of(model.generation, settings)
    if not cache_key:
        raise ValueError('the prompt has no tokens; expected one or more.')
    limit = model.context_length
    if limit and len(cache_key) + params.max_new_tokens > limit:
        raise ValueError(
            f'a prompt of {len(cache_key)} tokens and an answer of up to '
            f'{params.max_new_tokens} exceed the {limit} tokens that '
            'the LLM takes; shorten the prompt or lower max_new_tokens.'
        )
    stop = (*model.template.stop, *params.stop)
    tokenizer = model.decoder.tokenizer
    return GenerationRequest(
        params,
        cache_key,
        Detokenizer(tokenizer, stop, params.min_new_tokens),
        Sampler(params, model.stop_ids, model.decoder.llm.device),
        advance,
        images,
        embeddings,
        uses_prefix_cache,
    )


def _check_images(
    model: MiniGPT4, prompt: TokenizedPrompt, images: Sequence[Tensor]
) -> None:
    """Refuse images that do not match the prompt or the backbone."""
    check_image_slots(prompt.num_images, len(images), 'the prompt')
    if model.backbone is None:
        return
    size = model.image_size
    for image in images:
        shape, dtype = tuple(image.shape), image.dtype
        if shape != (3, size, size) or dtype != torch.uint8:
            raise ValueError(
                f'an image is {shape} of {dtype}; expected '
                f'(3, {size}, {size}) of torch.uint8.'
            )
