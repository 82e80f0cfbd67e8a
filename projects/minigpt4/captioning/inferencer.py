# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Python API: build a model by name, and caption or question images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.structures import BaseDataElement

from ..datasets import SampleError
from ..images.read import load_image
from ..models import MiniGPT4
from ..prompts import Turn
from ..weights.hub import check_name, read_config, require_weights


def get_model(
    model: 'str | Path | Config | MiniGPT4',
    pretrained: 'bool | str | Path' = True,
    device: str | None = None,
    **kwargs: Any,
) -> MiniGPT4:
    """Build a model of the hub, or of a config, with its weights.

    Args:
        model: A name such as ``'minigpt-4_nano_caption'``, a config or its
            file, or a model, which is only moved to ``device``.
        pretrained: Whether to load the published checkpoint, or the path of
            another one.
        device: Where to load the model, e.g. ``'cuda:1'``; None is the GPU
            if there is one, and leaves a model where it is.
        kwargs: Settings that replace those of the config's ``model``, e.g.
            ``decoder=dict(name_or_path='vicuna-7b')``.

    Returns:
        The model, in eval mode.

    Raises:
        FileNotFoundError: A config, a checkpoint or weights do not exist.
        ValueError: There is no such model or device, the model has no
            published checkpoint, or a checkpoint does not match it.
    """
    if device is None:
        device = 'cuda' if torch.cuda.is_available() else 'cpu'
        if isinstance(model, MiniGPT4):
            return model
    check_device(device)
    if isinstance(model, MiniGPT4):
        return model.to(device)
    _check_checkpoint(pretrained)
    if isinstance(model, (str, Path)):
        model = str(model)
        if model.endswith('.py'):
            model = read_config(model)
        else:
            check_name(model)
            if pretrained is True:
                require_weights(model)
    if not isinstance(model, str):
        _check_config(model, pretrained)
    import mmpretrain

    built = mmpretrain.get_model(
        model,
        pretrained=str(pretrained)
        if isinstance(pretrained, Path)
        else pretrained,
        device=device,
        **kwargs,
    )
    if not isinstance(built, MiniGPT4):
        raise ValueError(
            f'the model is a {type(built).__name__}, not a MiniGPT4; build it '
            'with mmpretrain.get_model.'
        )
    return built


def check_device(device: str) -> None:
    """Refuse a device that torch does not find.

    Raises:
        ValueError: There is no such device.
    """
    try:
        requested = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f'the device is {device!r}; expected cpu, cuda, cuda:1 or mps.'
        ) from error
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if requested.type == 'cuda' and (requested.index or 0) >= count:
        raise ValueError(
            f'the device is {device!r}, but torch finds {count} GPUs; give '
            f'{"cuda:0" if count else "cpu"}, or run "minigpt4 doctor".'
        )
    if requested.type == 'mps' and not torch.backends.mps.is_available():
        raise ValueError(
            "the device is 'mps', but torch finds no Apple GPU; give cpu."
        )


def _check_checkpoint(pretrained: 'bool | str | Path') -> None:
    """Refuse a checkpoint that does not exist before the model is built."""
    name = '' if isinstance(pretrained, bool) else str(pretrained)
    if not name or '://' in name:
        return
    path = Path(name).expanduser()
    if not path.exists():
        raise FileNotFoundError(
            f'the checkpoint {name} does not exist; give the path of a file '
            'as pretrained.'
        )
    if not path.is_file():
        raise ValueError(
            f'the checkpoint {name} is not a regular file; give a file '
            '(.pth or .safetensors) as pretrained.'
        )


def _check_config(config: object, pretrained: 'bool | str | Path') -> None:
    """Refuse a config without a model, or without a trained projection."""
    if not isinstance(config, Config):
        raise ValueError(
            f'the model is a {type(config).__name__}; expected the name of a '
            'model, a config or its file, or a MiniGPT4.'
        )
    file = config.filename or 'the config'
    if not isinstance(config.get('model'), dict):
        raise ValueError(
            f'{file} has no model; give a config with model=dict(type='
            "'minigpt4.MiniGPT4', ...)."
        )
    if pretrained is True and not config.get('load_from'):
        raise ValueError(
            f'{file} names no trained projection (load_from); give the file '
            "of one as pretrained='FILE', or pretrained=False for an "
            'untrained layer.'
        )


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
