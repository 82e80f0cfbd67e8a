# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Names and shapes of the tensors that a model's config expects."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from mmengine.config import Config
from torch import nn

from ..models.projector import build_head
from ..models.vision import build_vision
from ..utils.errors import one_line
from ..weights.model_hub import check_name, read_config

Shapes = dict[str, tuple[int, ...]]


def load_config(model: 'str | Config') -> Config:
    """Load the config of a model.

    Args:
        model: A name in the model hub, a config file (.py) or a config.

    Raises:
        ValueError: There is no such model.
    """
    from mmpretrain.apis.model import ModelHub

    if isinstance(model, Config):
        return model
    if str(model).endswith('.py'):
        return read_config(model)
    try:
        check_name(model)
    except ValueError as error:
        raise ValueError(
            f'{model!r} is no model of the hub and no config file (.py): '
            f'{error}'
        ) from error
    return ModelHub.get(model).config


def expected_shapes(model: 'str | Config') -> dict[str, Shapes]:
    """Return names and shapes of a model's tensors; no weights are read.

    Args:
        model: A name in the model hub, a config file (.py) or a config.

    Returns:
        Shapes by our names, for each component.

    Raises:
        ValueError: There is no such model, or its config builds none.
    """
    cfg = load_config(model)
    with explain_build_errors(cfg):
        components = _build_empty(cfg.model)
    return {
        name: module_shapes(module, 'head.' if name == 'head' else '')
        for name, module in components.items()
    }


@contextlib.contextmanager
def explain_build_errors(cfg: Config) -> Iterator[None]:
    """Turn any error of the body into one sentence that names the config.

    Raises:
        ValueError: The body failed; ``ValueError`` and ``OSError`` are not
            changed.
    """
    try:
        yield
    except (ValueError, OSError):
        raise
    except Exception as error:  # a config may name components of any kind
        reason = (
            'it has no model'
            if cfg.get('model') is None
            else f'{type(error).__name__}: {one_line(error)}'
        )
        raise ValueError(
            f'the config {cfg.filename or "that was given"} builds no model '
            f'of MiniGPT-4 ({reason}); see configs/minigpt4/ for configs that '
            'do.'
        ) from error


def _build_empty(cfg: Mapping[str, Any]) -> dict[str, nn.Module]:
    """Build backbone, neck and head without weights.

    Raises:
        ValueError: The width of the LLM is unknown.
    """
    arch = cfg['decoder'].get('arch')
    if arch is None:
        raise ValueError(
            'the config names no decoder.arch, so the width of its LLM '
            "is unknown; set it to the LLM's Hugging Face config."
        )
    with torch.device('meta'):
        backbone, neck = build_empty_vision(
            *(
                {**cfg[name]}
                | ({'checkpoint': None} if 'checkpoint' in cfg[name] else {})
                for name in ('backbone', 'neck')
            )
        )
        components = dict(backbone=backbone, neck=neck)
        components['head'] = build_head(cfg['head'], neck, arch['hidden_size'])
    return components


def build_empty_vision(backbone: Mapping, neck: Mapping) -> tuple[Any, Any]:
    """Build backbone and neck, under ``torch.device('meta')``.

    Args:
        backbone: Config of the backbone.
        neck: Config of the neck.

    Raises:
        ValueError: The backbone is no EVA-ViT, for which other projects have
            no names.
    """
    kind = backbone['type']
    kind = kind if isinstance(kind, str) else kind.__name__
    if kind.rpartition('.')[2] != 'EVAViT':
        raise ValueError(
            f'the backbone is {kind}, which no other project of MiniGPT-4 '
            'has; only models with the backbone EVAViT can be converted: '
            'serve this one with minigpt4 itself.'
        )
    built = build_vision(backbone, neck)
    return built.backbone, built.neck


def module_shapes(module: nn.Module, prefix: str = '') -> Shapes:
    """Return the shapes of a module's tensors by name.

    Args:
        module: The module.
        prefix: Added to each name.
    """
    return {
        prefix + name: tuple(tensor.shape)
        for name, tensor in module.state_dict().items()
    }
