# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Captioning from Python: names or models in, dicts out."""

from collections.abc import Sequence
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.structures import BaseDataElement

from ..datasets import SampleError
from ..images.read import read_image, to_tensor
from ..models import MiniGPT4
from ..prompts import Turn
from ..weights.hub import check_name, read_config, require_weights


def get_model(
    model: 'str | Path | Config | MiniGPT4',
    pretrained: 'bool | str | Path' = True,
    device: str | None = None,
    **kwargs,
) -> MiniGPT4:
    """Build a model of the hub, or of a config, with its weights.

    Args:
        model: A name such as ``'minigpt-4_nano_caption'``, a config or its
            file, or a model, which is returned as it is.
        pretrained: Whether to load the published checkpoint, or the path of
            one.
        device: Where to; by default the GPU if there is one.
        kwargs: SamplingParams over the config's ``model``, e.g.
            ``decoder=dict(name_or_path='vicuna-7b')``.

    Returns:
        The model, in eval mode.

    Raises:
        FileNotFoundError: A config, a checkpoint or weights do not exist.
        ValueError: There is no such model or device, the model has no
            published checkpoint, or a file does not fit it.
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
    """Refuse a device that this machine does not have.

    Raises:
        ValueError: There is no such device.
    """
    try:
        wanted = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f'the device is {device!r}; expected cpu, cuda, cuda:1 or mps.'
        ) from error
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted.type == 'cuda' and (wanted.index or 0) >= count:
        raise ValueError(
            f'the device is {device!r}, but torch sees {count} GPUs; give '
            f'{"cuda:0" if count else "cpu"}, or run "minigpt4 doctor".'
        )
    if wanted.type == 'mps' and not torch.backends.mps.is_available():
        raise ValueError(
            "the device is 'mps', but torch sees no Apple GPU; give cpu."
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
            f'the checkpoint {name} is no regular file; give a file (.pth or '
            '.safetensors) as pretrained.'
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
    model: 'str | Config | MiniGPT4',
    images,
    prompt: 'str | Sequence[str] | None' = None,
    batch_size: int = 8,
    device: str | None = None,
    pretrained: bool | str = True,
    **settings,
):
    """Caption or question images; greedy and with one prompt by default.

    Takes what MMPretrain's ``inference_model`` takes and, beyond it, a
    prompt, generation settings and several images.

    Args:
        model: See :func:`get_model`.
        images: An image (path, bytes, Pillow image, BGR array), or a list.
        prompt: The question, or one for each image; by default the model's
            own prompt. Its images stand where it says ``<ImageHere>``, else
            in front.
        batch_size: Images answered at once; the answers do not depend on it.
        device: See :func:`get_model`.
        pretrained: See :func:`get_model`.
        settings: Of generation, e.g. ``max_new_tokens=50, num_beams=5``.

    Returns:
        ``{'pred_caption': ...}`` for one image; for a list a list of such,
        where an image that cannot be read has ``pred_caption`` None and the
        reason as ``error``.

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
    results: list[dict] = []
    samples = []
    for image, question in zip(images, prompts, strict=True):
        try:
            samples.append(make_sample([image], question, model.image_size))
            results.append({})
        except SampleError as error:
            if single:
                raise
            results.append(dict(pred_caption=None, error=str(error)))
    waiting = [result for result in results if not result]
    answers = model.generate(samples, batch_size, **settings)
    for result, answer in zip(waiting, answers, strict=True):
        result['pred_caption'] = answer.text
    return results[0] if single else results


def make_sample(images: Sequence, question: str, size: int) -> BaseDataElement:
    """A sample of one question about some images.

    Args:
        images: What :func:`~minigpt4.datasets.read_image` reads.
        question: The question.
        size: Side of the images in pixels.
    """
    tensors = [
        to_tensor(read_image(str(i) if isinstance(i, Path) else i), size)
        for i in images
    ]
    return BaseDataElement(images=tensors, turns=[Turn(question)])
