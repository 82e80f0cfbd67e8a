# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Python API: caption images, or ask questions about them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.structures import BaseDataElement

from ..images.read import load_image
from ..loading import get_model
from ..models import MiniGPT4
from ..prompts import Turn
from ..utils.sample_errors import SampleError


def inference_model(
    model: 'str | Path | Config | MiniGPT4',
    images: Any,
    prompt: 'str | Sequence[str] | None' = None,
    batch_size: int = 8,
    device: str | None = None,
    pretrained: 'bool | str | Path' = True,
    **settings: Any,
) -> Any:
    """Caption images, or answer a prompt about each; greedy by default.

    Accepts all arguments of MMPretrain's ``inference_model`` and also a
    prompt, sampling parameters and several images.

    Args:
        model: See :func:`get_model`.
        images: An image (path, bytes, Pillow image, BGR array), or a list.
        prompt: The prompt, or one for each image; by default the model's
            own. The image takes the position of ``<ImageHere>``, or precedes
            a prompt without it.
        batch_size: Requests that are generated at the same time; the answers
            do not depend on it.
        device: See :func:`get_model`.
        pretrained: See :func:`get_model`.
        settings: Sampling parameters, e.g. ``max_new_tokens=50, num_beams=5``.

    Returns:
        ``{'pred_caption': ...}`` for one image; for a list, a list of such
        dicts. An image of a list that cannot be read has ``pred_caption``
        None and the reason as ``error``.

    Raises:
        SampleError: The one image cannot be read.
        ValueError: There are more or fewer prompts than images.
    """
    single = not isinstance(images, (list, tuple))
    images = [images] if single else list(images)
    model = get_model(model, pretrained, device)
    if prompt is None or isinstance(prompt, str):
        prompts = [model.prompt if prompt is None else prompt] * len(images)
    else:
        prompts = list(prompt)
    if len(prompts) != len(images):
        raise ValueError(
            f'{len(prompts)} prompts for {len(images)} images; '
            'give one prompt for all, or one for each.'
        )
    results: list[dict[str, Any]] = []
    samples = []
    for image, text in zip(images, prompts, strict=True):
        try:
            samples.append(make_sample([image], text, model.image_size))
            results.append({})
        except SampleError as error:
            if single:
                raise
            results.append(dict(pred_caption=None, error=str(error)))
    unanswered = [result for result in results if not result]
    answers = model.generate(samples, batch_size, **settings)
    for result, answer in zip(unanswered, answers, strict=True):
        result['pred_caption'] = answer.text
    return results[0] if single else results


def make_sample(images: Sequence, question: str, size: int) -> BaseDataElement:
    """Build a sample: one question about some images.

    Args:
        images: What :func:`~minigpt4.images.read.read_image` reads.
        question: The question, with or without ``<ImageHere>``.
        size: Side of the images in pixels.

    Raises:
        SampleError: An image cannot be read.
    """
    tensors = [load_image(image, size) for image in images]
    return BaseDataElement(images=tensors, turns=[Turn(question)])
