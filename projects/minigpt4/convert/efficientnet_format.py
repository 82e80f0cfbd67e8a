# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""EfficientNet-Lite and its pooling as ``EfficientNetModel`` of transformers.

That class has squeeze-and-excitation in each block; with weights of zero and
a large bias it multiplies by exactly 1. Pooling is one more block: its
depthwise kernel is the mean of a window, and ReLU6 does not change means of
values in 0..6.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..models import EfficientNetLite, PatchTokens
from ..weights.layouts import to_layout
from ..weights.read import LazyTensor
from .export_sources import Tensors

# the sigmoid of it is 1 in fp32
_OPEN_GATE = 30.0


def refuse_pooling(backbone: EfficientNetLite, neck: PatchTokens) -> None:
    """Refuse image tokens that no EfficientNet of transformers computes.

    Raises:
        ValueError: The image has an odd side, there is a global token, or
            the grid cannot be pooled with strides of two.
    """
    if backbone.img_size % 2:
        raise ValueError(
            f'the backbone has img_size={backbone.img_size}, but '
            'EfficientNetModel of transformers pads images of an even side; '
            'serve this model with minigpt4 itself.'
        )
    if neck.keep_global:
        raise ValueError(
            'the neck has keep_global=True, but the image tokens of '
            'FastVlmForConditionalGeneration are the positions of a map; '
            'train with keep_global=False, or serve this model with minigpt4 '
            'itself.'
        )
    side = backbone.grid_size[0]
    grid = side if neck.grid is None else neck.grid
    if pooling_windows(side, grid) is None:
        possible = [
            str(n)
            for n in range(1, side + 1)
            if pooling_windows(side, n) is not None
        ]
        raise ValueError(
            f'the neck pools {side} x {side} patches to {grid} x {grid}, '
            'which EfficientNetModel of transformers cannot do with strides '
            f'of two; train with a grid of {" or ".join(possible)}, or serve '
            'this model with minigpt4 itself.'
        )


def pooling_windows(side: int, grid: int) -> list[int] | None:
    """Return windows of mean poolings of stride 2 that give a grid.

    Args:
        side: Rows and columns of the map.
        grid: Rows and columns of the adaptive mean pooling.

    Returns:
        The side of each window, 2 or 3; none if nothing is pooled. None if
        they do not give the same means.
    """
    windows = []
    means = torch.diag(torch.ones(side))
    expected = F.adaptive_avg_pool1d(means, grid)
    while means.shape[1] > grid:
        windows.append(3 if means.shape[1] % 2 else 2)
        means = F.avg_pool1d(means, windows[-1], stride=2)
    same = means.shape == expected.shape and torch.allclose(means, expected)
    return windows if same else None


def efficientnet_config(
    backbone: EfficientNetLite, neck: PatchTokens
) -> dict[str, Any]:
    """Return the ``vision_config`` of a folder.

    Args:
        backbone: The vision encoder.
        neck: The pooling, which :func:`refuse_pooling` accepts.
    """
    stages, odd = _stages(backbone)
    width = backbone.out_channels
    for window, expand in _pooling_blocks(backbone, neck):
        stages.append(
            dict(
                in_channels=stages[-1]['out_channels'],
                out_channels=width,
                kernel_sizes=window,
                strides=2,
                num_block_repeats=1,
                expand_ratios=expand,
            )
        )
    return dict(
        model_type='efficientnet',
        image_size=backbone.img_size,
        width_coefficient=1.0,
        depth_coefficient=1.0,
        depth_divisor=8,
        **{key: [stage[key] for stage in stages] for key in stages[0]},
        depthwise_padding=odd,
        squeeze_expansion_ratio=1e-6,  # one channel
        hidden_act='relu6',
        hidden_dim=width,
        hidden_size=width,  # FastVLM reads this name
        batch_norm_eps=backbone.stem.norm.eps,
        dropout_rate=0.0,
        drop_connect_rate=0.0,
    )


def _stages(
    backbone: EfficientNetLite,
) -> tuple[list[dict[str, int]], list[int]]:
    """Describe the blocks as stages of transformers.

    Returns:
        The stages, whose later blocks are residual, and the blocks of stride
        2 with an input of odd size, which pads all sides.
    """
    stages: list[dict[str, int]] = []
    odd = []
    size = backbone.img_size // 2
    blocks: Any = backbone.blocks
    for i, block in enumerate(blocks):
        if block.residual:
            stages[-1]['num_block_repeats'] += 1
            continue
        depthwise = block.depthwise.conv
        width = depthwise.in_channels
        expand = 1
        if block.expand is not None:
            width = block.expand.conv.in_channels
            expand = depthwise.in_channels // width
        stride = depthwise.stride[0]
        if stride == 2:
            if size % 2:
                odd.append(i)
            size = (size + 1) // 2
        stages.append(
            dict(
                in_channels=width,
                out_channels=block.project.conv.out_channels,
                kernel_sizes=depthwise.kernel_size[0],
                strides=stride,
                num_block_repeats=1,
                expand_ratios=expand,
            )
        )
    return stages, odd


def _pooling_blocks(
    backbone: EfficientNetLite, neck: PatchTokens
) -> list[tuple[int, int]]:
    """Return window and expansion of each block that pools.

    The first one expands as the backbone's last convolution does; channels
    beyond those of the convolution are zero.
    """
    side = backbone.grid_size[0]
    windows = pooling_windows(side, neck.grid or side) or []
    head = backbone.head.conv
    expand = -(-head.out_channels // head.in_channels)
    return [(w, 1 if i else expand) for i, w in enumerate(windows)]


def efficientnet_tensors(
    backbone: EfficientNetLite, neck: PatchTokens, tensors: Tensors
) -> Tensors:
    """Return the tensors of ``EfficientNetModel`` by their names there.

    Args:
        backbone: The vision encoder.
        neck: The pooling, which :func:`refuse_pooling` accepts.
        tensors: The tensors of the vision encoder by our names.
    """
    constants = _Constants(
        tensors['head.conv.weight'].dtype, backbone.stem.norm.eps
    )
    found = to_layout('efficientnet_lite', 'huggingface', tensors)
    blocks: Any = backbone.blocks
    for i, block in enumerate(blocks):
        channels = block.depthwise.conv.in_channels
        found |= constants.open_gate(f'encoder.blocks.{i}.', channels)
    count = len(blocks)
    width = backbone.out_channels
    channels = width
    for window, expand in _pooling_blocks(backbone, neck):
        block_name = f'encoder.blocks.{count}.'
        count += 1
        if expand > 1:
            channels = backbone.head.conv.in_channels * expand
            for name, fill in (
                ('conv.weight', 0.0),
                ('bn.weight', 1.0),
                ('bn.bias', 0.0),
                ('bn.running_mean', 0.0),
                ('bn.running_var', 1.0),
            ):
                found[f'{block_name}expansion.expand_{name}'] = _extend(
                    found.pop(f'encoder.top_{name}'), channels, fill
                )
        else:
            channels = width
        depthwise = f'{block_name}depthwise_conv.depthwise_'
        found[f'{depthwise}conv.weight'] = constants.fill(
            1 / window**2, channels, 1, window, window
        )
        found |= constants.norm(f'{depthwise}norm.', channels)
        found |= constants.open_gate(block_name, channels)
        projection = f'{block_name}projection.project_'
        found[f'{projection}conv.weight'] = constants.identity(width, channels)
        found |= constants.norm(f'{projection}bn.', width)
    if count > len(blocks):
        found['encoder.top_conv.weight'] = constants.identity(width, width)
        found |= constants.norm('encoder.top_bn.', width)
    for name in [name for name in found if name.endswith('.running_mean')]:
        counter = name.removesuffix('running_mean') + 'num_batches_tracked'
        found[counter] = LazyTensor.of(torch.tensor(0))
    return found


def without_pooling(backbone: EfficientNetLite, tensors: Tensors) -> Tensors:
    """Return exported tensors as if nothing had been pooled.

    Args:
        backbone: The vision encoder.
        tensors: Tensors by the names of ``EfficientNetModel``.
    """
    blocks: Any = backbone.blocks
    prefix = f'encoder.blocks.{len(blocks)}.expansion.expand_'
    found = dict(tensors)
    for name, tensor in tensors.items():
        if name.startswith(prefix):
            found['encoder.top_' + name.removeprefix(prefix)] = cut_rows(
                tensor, backbone.out_channels
            )
    return found


class _Constants:
    """Tensors of layers that change nothing.

    Args:
        dtype: Their type.
        eps: The eps of the batch norms.
    """

    def __init__(self, dtype: torch.dtype, eps: float) -> None:
        self.dtype = dtype
        self.eps = eps

    def fill(self, value: float, *shape: int) -> LazyTensor:
        """Return a tensor of one value."""
        return LazyTensor(
            shape,
            self.dtype,
            lambda: torch.full(shape, value, dtype=self.dtype),
        )

    def identity(self, rows: int, columns: int) -> LazyTensor:
        """Return a convolution that keeps the first ``rows`` channels."""
        return LazyTensor(
            (rows, columns, 1, 1),
            self.dtype,
            lambda: torch.nn.init.dirac_(
                torch.empty(rows, columns, 1, 1, dtype=self.dtype)
            ),
        )

    def norm(self, prefix: str, channels: int) -> Tensors:
        """Return the tensors of a batch norm."""
        return {
            f'{prefix}weight': self.fill(1.0, channels),
            f'{prefix}bias': self.fill(0.0, channels),
            f'{prefix}running_mean': self.fill(0.0, channels),
            f'{prefix}running_var': self.fill(1 - self.eps, channels),
        }

    def open_gate(self, block_name: str, channels: int) -> Tensors:
        """Return the tensors of a squeeze-and-excitation of factor 1."""
        prefix = f'{block_name}squeeze_excite.'
        return {
            f'{prefix}reduce.weight': self.fill(0.0, 1, channels, 1, 1),
            f'{prefix}reduce.bias': self.fill(0.0, 1),
            f'{prefix}expand.weight': self.fill(0.0, channels, 1, 1, 1),
            f'{prefix}expand.bias': self.fill(_OPEN_GATE, channels),
        }


def _extend(lazy: LazyTensor, length: int, value: float) -> LazyTensor:
    """Lengthen a tensor along its first dimension with one value."""

    def read() -> Tensor:
        tensor = lazy.read()
        extended = tensor.new_full((length, *lazy.shape[1:]), value)
        extended[: lazy.shape[0]] = tensor
        return extended

    return LazyTensor((length, *lazy.shape[1:]), lazy.dtype, read)


def cut_rows(lazy: LazyTensor, length: int) -> LazyTensor:
    """Keep the start of a tensor along its first dimension."""
    if not lazy.shape:
        return lazy  # a counter
    return LazyTensor(
        (length, *lazy.shape[1:]),
        lazy.dtype,
        lambda: lazy.read()[:length].clone(),
    )
