# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Resize the position embeddings of a ViT to another number of patches."""

import math

import torch
from mmengine.logging import print_log
from torch import Tensor
from torch.nn import functional as F

from .read import LazyTensor


def resize_positions(
    table: Tensor, grid_size: tuple[int, int], num_class_tokens: int
) -> Tensor:
    """Interpolate position embeddings, bicubic, in fp32.

    Args:
        table: ``(1, num_class_tokens + n * n, C)``; those of the prefix do
            not change.
        grid_size: Rows and columns of the patches ``(h, w)``.
        num_class_tokens: Class tokens before the patches.

    Returns:
        ``(1, num_class_tokens + h * w, C)`` in the type of ``table``.

    Raises:
        ValueError: The patches of ``table`` are no square.

    Source: MiniGPT-4 ``interpolate_pos_embed`` of ``models/eva_vit.py`` @
    d94738a.
    """
    side = _side(table.shape[1] - num_class_tokens)
    if side is None:
        raise ValueError(
            f'the position embeddings are of {table.shape[1]} tokens; '
            f'expected {num_class_tokens} and a square number of patches.'
        )
    prefix, patches = table.split(
        (num_class_tokens, table.shape[1] - num_class_tokens), dim=1
    )
    grid = patches.float().unflatten(1, (side, side)).permute(0, 3, 1, 2)
    grid = F.interpolate(
        grid, size=grid_size, mode='bicubic', align_corners=False
    )
    patches = grid.flatten(2).transpose(1, 2).to(table.dtype)
    return torch.cat((prefix, patches), dim=1)


def resize_lazily(
    tensor: LazyTensor, grid_size: tuple[int, int], num_class_tokens: int
) -> LazyTensor:
    """Resize the position embeddings of a file when they are read.

    Args:
        tensor: The tensor of the file. One that is no table of a square grid,
            or that has the right size, is returned as it is.
        grid_size: As for :func:`resize_positions`.
        num_class_tokens: As for :func:`resize_positions`.
    """
    height, width = grid_size
    tokens = num_class_tokens + height * width
    if len(tensor.shape) != 3 or tensor.shape[1] == tokens:
        return tensor
    side = _side(tensor.shape[1] - num_class_tokens)
    if side is None or not tensor.dtype.is_floating_point:
        return tensor  # reported as misshaped
    print_log(
        f'position embeddings of {side} x {side} patches are interpolated to '
        f'{height} x {width}.',
        logger='current',
    )
    return LazyTensor(
        (tensor.shape[0], tokens, tensor.shape[2]),
        tensor.dtype,
        lambda: resize_positions(tensor.read(), grid_size, num_class_tokens),
    )


def _side(patches: int) -> int | None:
    """Return the side of a square of patches; None if it is no square."""
    side = math.isqrt(max(patches, 0))
    return side if side > 0 and side * side == patches else None
