# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Which parts of the image each image token stands for.

A query of a Q-Former reads all patches: its parts are its cross-attention.
Tokens of the other necks are means or groups of patches, and their parts are
known without any image. Hooks of one forward pass read the attention, so the
Q-Former itself computes as always.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..models import MiniGPT4
from ..models.patch_tokens import PatchTokens
from ..models.q_former import Attention, PatchMerge, QFormer


@dataclass
class ImageRegions:
    """The parts of the image behind ``Q`` image tokens.

    Attributes:
        kind: ``'cross-attention'``, ``'grid'``, or ``'none'`` for a neck
            whose tokens have no known part of the image.
        names: A name of each image token.
        grid: Rows and columns of the maps, ``h`` and ``w``: patches, or
            cells of :func:`grid_maps`; None for the kind ``'none'``.
        maps: ``(Q, h, w)`` fp32. Each sums to 1; that of a token without a
            part of the image (learned prefix, kind ``'none'``) is 0.
        layers: Numbers of the ``L`` layers with cross-attention.
        layer_maps: ``(L, Q, h, w)``, the map of each layer; ``maps`` is their
            mean.
        class_share: ``(L, Q)``, the share of a layer's attention that the
            class token has, which is not in its map.
    """

    kind: str
    names: list[str]
    grid: tuple[int, int] | None
    maps: Tensor
    layers: list[int] = field(default_factory=list)
    layer_maps: Tensor | None = None
    class_share: Tensor | None = None


@torch.no_grad()
def embed_with_regions(
    model: MiniGPT4, pixels: Tensor
) -> tuple[Tensor, ImageRegions]:
    """Encode one image, and find the parts behind its tokens.

    Args:
        model: The model, in eval mode.
        pixels: ``(1, 3, H, W)``, normalised.

    Returns:
        The image tokens ``(1, Q, hidden_size)`` and their parts.
    """
    with _recorded_attention(model.neck) as records:
        tokens = model.embed_images(pixels)
    return tokens, _find_regions(model, records)


def attention_weights(
    attention: Attention, x: Tensor, context: Tensor
) -> Tensor:
    """The weights of a layer of the Q-Former, which it does not return.

    Args:
        attention: The layer.
        x: ``(B, Q, C)``, its first input.
        context: ``(B, N, C')``, what it attends to.

    Returns:
        ``(B, heads, Q, N)`` fp32; sums to 1 over ``N``.
    """

    def heads(t: Tensor) -> Tensor:
        return t.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)

    query = heads(attention.query(x)).float()
    key = heads(attention.key(context)).float()
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    return scores.softmax(-1)


def grid_maps(neck: 'PatchTokens | PatchMerge', h: int, w: int) -> Tensor:
    """The cells of the image behind the tokens of a neck without weights.

    Cells are patches, or the parts of a ``PatchTokens`` with a ``grid``.
    These are drawn with the same size and without the patch by which
    neighbours overlap where ``grid`` does not divide the patches: it would
    seem to matter twice as much.

    Args:
        neck: The neck.
        h: Rows of patches.
        w: Columns of patches.

    Returns:
        ``(Q, rows, columns)`` fp32; the same share for each cell of a token.
    """
    if isinstance(neck, PatchMerge):
        merge = h * w // neck.num_tokens
        tokens = torch.ones(neck.num_tokens).diag().repeat_interleave(merge, 1)
        return tokens.reshape(-1, h, w) / merge
    if neck.grid is not None:
        h = w = neck.grid
    maps = torch.ones(h * w).diag().reshape(-1, h, w)
    if neck.keep_global:
        maps = torch.cat((torch.full((1, h, w), 1 / (h * w)), maps))
    return maps


@contextmanager
def _recorded_attention(neck: Any) -> Iterator[list[Tensor]]:
    """Record the cross-attention of a Q-Former: ``(Q, N)`` of each layer."""
    records: list[Tensor] = []

    def record(attention: Any, inputs: tuple[Tensor, Tensor]) -> None:
        weights = attention_weights(attention, *inputs)
        records.append(weights.mean(1)[0].cpu())

    layers: Any = neck.layers if isinstance(neck, QFormer) else ()
    hooks = [
        layer.cross_attention.register_forward_pre_hook(record)
        for layer in layers
        if layer.cross_attention is not None
    ]
    try:
        yield records
    finally:
        for hook in hooks:
            hook.remove()


def _find_regions(model: MiniGPT4, records: Sequence[Tensor]) -> ImageRegions:
    neck = model.neck
    h, w = model.backbone.grid_size
    prefix = model.num_image_tokens - neck.num_tokens
    names = [f'prefix {i + 1}' for i in range(prefix)]
    if isinstance(neck, QFormer) and records:
        names += [f'query {i + 1}' for i in range(neck.num_tokens)]
        skipped = model.backbone.num_class_tokens
        weights = torch.stack([*records])
        patches = weights[:, :, skipped:]
        total = patches.sum(-1, keepdim=True)
        layer_maps = (patches / total.clamp_min(1e-12)).unflatten(-1, (h, w))
        layers = [
            i
            for i, layer in enumerate(neck.layers)
            if layer.cross_attention is not None
        ]
        return ImageRegions(
            'cross-attention',
            names,
            (h, w),
            _after_prefix(layer_maps.mean(0), prefix),
            layers,
            _after_prefix(layer_maps, prefix),
            _after_prefix(weights[:, :, :skipped].sum(-1), prefix, 1),
        )
    if isinstance(neck, (PatchTokens, PatchMerge)):
        names += _grid_names(neck, h, w)
        maps = _after_prefix(grid_maps(neck, h, w), prefix)
        rows, columns = maps.shape[1:]
        return ImageRegions('grid', names, (rows, columns), maps)
    names += [f'token {i + 1}' for i in range(neck.num_tokens)]
    return ImageRegions('none', names, None, torch.zeros(len(names), 0, 0))


def _after_prefix(values: Tensor, prefix: int, dim: int = -3) -> Tensor:
    """Put zeros for a learned prefix before the image tokens in ``dim``."""
    shape = list(values.shape)
    shape[dim] = prefix
    return torch.cat((values.new_zeros(shape), values), dim)


def _grid_names(neck: 'PatchTokens | PatchMerge', h: int, w: int) -> list[str]:
    """``whole image``, then rows and columns; groups of a merge by number."""
    if isinstance(neck, PatchMerge):
        return [f'group {i + 1}' for i in range(neck.num_tokens)]
    names = ['whole image'] * neck.keep_global
    return names + [
        f'row {i + 1}, column {j + 1}'
        for i in range(neck.grid or h)
        for j in range(neck.grid or w)
    ]
