# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Answers of a model: samples, collated batches and given candidates.

Every call creates its own :class:`Engine` and drops it, because the model's
weights, device and dtype may change between two calls (training, ``to()``).
For many calls on one model, create an engine and keep it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.structures import BaseDataElement
from torch import Tensor

from ..models import MiniGPT4
from ..models.collator import MultimodalInputs
from .engine import Engine
from .hf_generate import hf_generate
from .kv_support import supports_kv_slots
from .request import Answer
from .sampling_params import SamplingParams


def sampling_params(
    model: MiniGPT4, settings: Mapping[str, Any] | None = None
) -> SamplingParams:
    """Return the sampling parameters of a call.

    Args:
        model: The model, whose ``generation`` has the defaults.
        settings: The parameters of the call.
    """
    return SamplingParams.of(model.generation, settings or {})


def generate(
    model: MiniGPT4,
    samples: Sequence[BaseDataElement],
    batch_size: int | None = None,
    **settings: Any,
) -> list[Answer]:
    """Answer samples (``images`` uint8 and ``turns``).

    Args:
        model: The model.
        samples: Samples of the datasets' pipelines.
        batch_size: The most that are answered at the same time; None is all.
        settings: Sampling parameters over ``model.generation``.
    """
    size = batch_size or max(len(samples), 1)
    collator = model.collator(training=False)
    if _uses_engine(model, settings):
        engine = Engine(model, min(size, len(samples) or 1), stored_tokens=0)
        requests = [
            engine.submit(collator.tokenize(sample), sample.images, **settings)
            for sample in samples
        ]
        return [request.answer() for request in requests]
    answers = []
    for start in range(0, len(samples), size):
        batch = collator(samples[start : start + size])
        batch = model.data_preprocessor(batch, False)
        answers += answer_batch(
            model, batch['images'], batch['inputs'], **settings
        )
    return answers


@torch.no_grad()
def answer_batch(
    model: MiniGPT4,
    images: Tensor | None,
    inputs: MultimodalInputs,
    **settings: Any,
) -> list[Answer]:
    """Answer a left-padded batch.

    Args:
        model: The model.
        images: ``(N, 3, H, W)`` normalised, or None.
        inputs: The batch.
        settings: Sampling parameters over ``model.generation``.

    Raises:
        ValueError: The batch is one of the training collator, or a parameter
            is unknown.
    """
    if inputs.packed or inputs.prefix:
        raise ValueError(
            'a packed training batch cannot be answered; collate with '
            'model.collator(training=False).'
        )
    if not inputs.attention_mask[:, -1].all():
        raise ValueError(
            'a prompt ends in padding; a batch to answer is padded on '
            "the left: collate with padding='left'."
        )
    features, keys = None, inputs.token_ids
    if images is not None:
        new = _is_new(images)
        numbers = new.cumsum(0) - 1
        features = model.embed_images(images[new])[numbers]
        keys = _with_image_numbers(inputs, numbers)
    embeddings = model.embed_inputs(images, inputs, features)
    if _uses_engine(model, settings):
        engine = Engine(model, slots=len(embeddings), stored_tokens=0)
        masks = inputs.attention_mask.bool()
        requests = [
            engine.submit_embeddings(
                prompt[mask], key[mask].tolist(), **settings
            )
            for prompt, key, mask in zip(embeddings, keys, masks, strict=True)
        ]
        return [request.answer() for request in requests]
    params = sampling_params(model, settings)
    decoder = model.decoder
    return hf_generate(
        decoder.llm,
        decoder.tokenizer,
        decoder.to_llm_device(embeddings),
        decoder.to_llm_device(inputs.attention_mask),
        (*model.template.stop, *params.stop),
        stop_ids=model.stop_ids,
        **params.to_transformers(),
    )


def _is_new(images: Tensor) -> Tensor:
    """Whether each image differs from the one before: ``(N,)`` bool.

    The records of a question data set about one image follow each other.
    """
    new = torch.ones(len(images), dtype=torch.bool, device=images.device)
    new[1:] = (images[1:] != images[:-1]).flatten(1).any(1)
    return new


def _with_image_numbers(inputs: MultimodalInputs, numbers: Tensor) -> Tensor:
    """Token ids, with a negative number for each image: ``(B, T)``.

    Args:
        inputs: The batch.
        numbers: ``(N,)``, equal for equal images, from 0.
    """
    positions = inputs.image_positions
    keys = inputs.token_ids.flatten().clone()
    keys[positions] = -1 - numbers.to(keys).repeat_interleave(
        len(positions) // len(numbers)
    )
    return keys.view_as(inputs.token_ids)


def rank(
    model: MiniGPT4,
    sample: BaseDataElement,
    candidates: Sequence[str],
    end: bool = True,
) -> list[float]:
    """Rank given answers to a sample's last question.

    Args:
        model: The model.
        sample: ``images`` uint8 and ``turns``.
        candidates: The answers.
        end: Whether the template's end symbol belongs to an answer.

    Returns:
        The mean log-likelihood of each answer; see :meth:`Engine.rank`.
    """
    prompt = model.collator(training=False).tokenize(sample)
    engine = Engine(model, slots=1, stored_tokens=0)
    return engine.rank(prompt, sample.images, candidates, end)


def _uses_engine(model: MiniGPT4, settings: Mapping[str, Any]) -> bool:
    """Whether the engine can answer a batch, not only transformers."""
    num_beams = sampling_params(model, settings).num_beams
    return num_beams == 1 and supports_kv_slots(model.decoder)
