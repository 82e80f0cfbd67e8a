# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The fingerprint of the vision parts: compute it and compare two.

A projection maps the queries of one backbone and neck, computed from images
of one size and normalisation; with others of the same width the model would
answer fluent nonsense without any error. A checkpoint stores the fingerprint
of its vision parts next to that of its LLM.
"""

from typing import Any

import torch
from torch import nn

from .frozen_linear import quantise_linears

# frozen tensors that are sampled, and values of each
_TENSORS = 6
_VALUES = 4
_BF16_STEP = 2.0**-7
# names in a fingerprint: what they are, for errors
_SETTINGS = {
    'name': 'type',
    'img_size': 'image size',
    'out_channels': 'width',
    'num_tokens': 'number of tokens',
    'num_class_tokens': 'number of class tokens',
    'grid_size': 'grid of patches',
    'settings': 'settings',
}


@torch.no_grad()
def compute_vision_fingerprint(
    backbone: Any, neck: Any, normalizer: Any, weights: bool = True
) -> dict[str, Any] | None:
    """Compute the fingerprint of a model's vision parts.

    Args:
        backbone: A :class:`~.backbone.Backbone`; None where images come as
            cached queries.
        neck: The neck. One of cached queries has the fingerprint of the parts
            that made them.
        normalizer: The image normaliser.
        weights: Whether to include values of weights; without them the parts
            need no memory.

    Returns:
        A JSON object: of backbone and neck the type, the sizes, and a few
        values of frozen weights; mean and standard deviation of the
        normaliser. None for parts without memory (on the meta device), and
        for features of a cache that has none.
    """
    if backbone is None:
        return getattr(neck, 'vision_fingerprint', None)
    parts: dict[str, Any] = {}
    for part, module in (('backbone', backbone), ('neck', neck)):
        if weights and any(p.is_meta for p in module.parameters()):
            return None
        settings = dict(name=type(module).__name__) | {
            key: getattr(module, key)
            for key in _SETTINGS
            if hasattr(module, key)
        }
        # trained weights are in the checkpoint itself
        if weights and module.frozen:
            sampled = getattr(module, 'original_weights', None)
            settings['weights'] = sampled or _sample_weights(module)
        if 'grid_size' in settings:
            settings['grid_size'] = [*settings['grid_size']]
        parts[part] = settings
    if hasattr(normalizer, 'mean'):
        parts['normalization'] = [
            [round(x, 6) for x in values.flatten().tolist()]
            for values in (normalizer.mean, normalizer.std)
        ]
    return parts


def quantise_vision_part(
    module: Any, linear_dtype: str | None, part: str
) -> None:
    """Let a frozen backbone or neck multiply in 8 bits, in place.

    Its fingerprint stays that of the original weights.

    Args:
        module: The backbone or neck.
        linear_dtype: As for :func:`~.frozen_linear.quantise_linears`.
        part: ``'backbone'`` or ``'neck'``.

    Raises:
        ValueError: It cannot be.
    """
    if linear_dtype is None:
        return
    if not any(p.is_meta for p in module.parameters()):
        module.original_weights = _sample_weights(module)
    quantise_linears(module, linear_dtype, part)


def _sample_weights(module: nn.Module) -> dict[str, list[float]]:
    """Return a few values of a few tensors, evenly spread over a module."""
    tensors = {
        name: tensor
        for name, tensor in sorted(module.named_parameters())
        if tensor.numel() > 1
    }
    names = [*tensors]
    chosen = {
        names[i * (len(names) - 1) // (_TENSORS - 1)]
        for i in range(_TENSORS if names else 0)
    }
    sampled = {}
    for name in sorted(chosen):
        flat = tensors[name].detach().reshape(-1)
        step = max(len(flat) // _VALUES, 1)
        values = flat[::step][:_VALUES].float().tolist()
        sampled[name] = [round(value, 8) for value in values]
    return sampled


def compare_vision_fingerprints(
    found: dict[str, Any], expected: dict[str, Any], source: object
) -> None:
    """Refuse a projection that was trained with other vision parts.

    Args:
        found: The fingerprint of the model in use.
        expected: That in the checkpoint.
        source: The checkpoint, for the error.

    Raises:
        ValueError: A setting differs, or a value of the weights differs by
            more than the rounding of bf16.
    """
    difference = _first_difference(found, expected)
    if difference is not None:
        raise ValueError(
            f'{source} was trained with {difference}; give the vision parts '
            'it was trained with, or set model.check_vision=False to use it '
            'anyway.'
        )


def _first_difference(
    found: dict[str, Any], expected: dict[str, Any]
) -> str | None:
    """Describe what differs; None if nothing does."""
    for part in ('backbone', 'neck'):
        ours, theirs = found.get(part, {}), expected.get(part, {})
        kind = theirs.get('name')
        for key, what in _SETTINGS.items():
            if ours.get(key) != theirs.get(key):
                if key == 'name':
                    return (
                        f'the {part} {kind}, but this model has '
                        f'{ours.get(key)}'
                    )
                return (
                    f'another {part} ({kind}, {what} {theirs.get(key)}, not '
                    f'{ours.get(key)})'
                )
        if 'weights' in ours and 'weights' in theirs:
            differing = _differing_weight(ours['weights'], theirs['weights'])
            if differing is not None:
                return (
                    f'other weights of the {part} {kind} ({differing} differs)'
                )
    ours, theirs = (x.get('normalization') for x in (found, expected))
    if ours != theirs and None not in (ours, theirs):
        return (
            f'images of another normalisation (mean and std {theirs}, not '
            f'{ours})'
        )
    return None


def _differing_weight(
    ours: dict[str, list[float]], theirs: dict[str, list[float]]
) -> str | None:
    """Name a tensor whose values differ; None if there is none."""
    for name in sorted({*ours, *theirs}):
        pair = ours.get(name), theirs.get(name)
        if None in pair or len(pair[0] or ()) != len(pair[1] or ()):
            return name
        values, expected = (torch.tensor(x) for x in pair)
        tolerance = _BF16_STEP * expected.abs() + 1e-6
        if ((values - expected).abs() > tolerance).any():
            return name
    return None
