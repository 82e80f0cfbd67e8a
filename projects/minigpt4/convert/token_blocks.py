# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Pooling, mean and positions of image tokens as blocks of EfficientNet.

ReLU6 does not change means of values in 0..6. So the depthwise kernel of a
block is a pooling: the mean of a window.

If each token has the mean of all tokens or a bias of its own, a further block
follows. Its input has each channel once per use, and channels of the constant
1. Its kernels cover the whole map from every position: a kernel of equal
values gives the mean, and one with a single 1 at a distance (a, b) gives the
indicator of ``row >= a`` and ``column >= b``, since the padding is zero.
Differences of indicators mark each position in a channel of its own. The
first matrix of the projector has the position biases as columns for them.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ..models import EfficientNetLite, PatchTokens
from ..weights.read import LazyTensor
from .constant_tensors import Constants, repeat_rows
from .export_sources import Tensors

# what a batch norm has for channels beyond those of a convolution
_NORM_FILL = {'bn.weight': 1.0, 'bn.running_var': 1.0}


class TokenBlock(NamedTuple):
    """Widths and kernel of a block.

    Attributes:
        kernel: Side of the depthwise kernel.
        stride: 2 if it pools, 1 if it mixes.
        in_channels: Width of its input.
        expand: Factor from it to the width of the depthwise layer.
        out_channels: Width of its output.
    """

    kernel: int
    stride: int
    in_channels: int
    expand: int
    out_channels: int


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


class TokenBlocks:
    """The blocks between those of a backbone and the last convolution.

    The first one expands as the backbone's last convolution does.

    Args:
        backbone: The vision encoder.
        neck: The pooling, which :func:`~.efficientnet_format.refuse_pooling`
            accepts.
        position_bias: Whether the head has position biases.

    Attributes:
        channels: Width of the map that the class gives the projector.
        first_position: Its first channel that marks a position.
        blocks: The blocks; none if the map is that of the backbone.
    """

    def __init__(
        self,
        backbone: EfficientNetLite,
        neck: PatchTokens,
        position_bias: bool,
    ) -> None:
        side = backbone.grid_size[0]
        self.grid = neck.grid or side
        self.width = backbone.out_channels
        self.copies = 1 + neck.with_mean
        self.positions = self.grid**2 if position_bias else 0
        self.first_position = self.copies * self.width
        # EfficientNetConfig has multiples of 8
        self.channels = -(-(self.first_position + self.positions) // 8) * 8
        windows = pooling_windows(side, self.grid) or []
        kernels = [(window, 2) for window in windows]
        if self.channels > self.width:
            kernels.append((2 * self.grid - 1, 1))
        self.blocks: list[TokenBlock] = []
        width = backbone.head.conv.in_channels
        for i, (kernel, stride) in enumerate(kernels):
            hidden = self.width if stride == 2 else self.channels
            out = self.channels if i + 1 >= len(windows) else self.width
            expand = -(-hidden // width)
            self.blocks.append(TokenBlock(kernel, stride, width, expand, out))
            width = out

    def tensors(
        self, first: int, head: Tensors, constants: Constants
    ) -> Tensors:
        """Return the tensors of the blocks and of the last convolution.

        Args:
            first: Number of the first block.
            head: The last convolution of the backbone, ``conv.weight`` and
                the batch norm ``bn.``.
            constants: Of the type of the backbone.
        """
        found: Tensors = {}
        for i, block in enumerate(self.blocks):
            prefix = f'encoder.blocks.{first + i}.'
            hidden = block.in_channels * block.expand
            mixes = block.stride == 1
            if i == 0:
                layer = self._extend(head, hidden, mixes)
                found |= _under(f'{prefix}expansion.expand_', layer)
            depthwise = f'{prefix}depthwise_conv.depthwise_'
            found[f'{depthwise}conv.weight'] = (
                self._mixing_kernel(hidden, constants.dtype)
                if mixes
                else constants.fill(
                    1 / block.kernel**2, hidden, 1, block.kernel, block.kernel
                )
            )
            found |= constants.norm(f'{depthwise}norm.', hidden)
            found |= constants.open_gate(prefix, hidden)
            if mixes:
                layer = constants.norm('bn.', self.channels)
                layer['conv.weight'] = self._differences(
                    hidden, constants.dtype
                )
            else:
                layer = constants.norm('bn.', self.width)
                layer['conv.weight'] = constants.identity(self.width, hidden)
                if block.out_channels > self.width:
                    layer = self._extend(layer, block.out_channels, True)
            found |= _under(f'{prefix}projection.project_', layer)
        if self.blocks:
            head = constants.norm('bn.', self.channels)
            head['conv.weight'] = constants.identity(
                self.channels, self.channels
            )
        return found | _under('encoder.top_', head)

    def _extend(self, layer: Tensors, rows: int, mixed: bool) -> Tensors:
        """Add channels to a convolution and its norm.

        Args:
            layer: The tensors.
            rows: Channels that it gets.
            mixed: Whether they are repeated for the mean, and the further
                ones are 1; otherwise these are 0.
        """
        fills = _NORM_FILL | {'bn.bias': float(mixed)}
        return {
            name: repeat_rows(
                lazy, self.copies if mixed else 1, rows, fills.get(name, 0.0)
            )
            for name, lazy in layer.items()
        }

    def _mixing_kernel(self, hidden: int, dtype: torch.dtype) -> LazyTensor:
        """Return the depthwise kernel of the block that mixes positions."""
        side = 2 * self.grid - 1
        centre = self.grid - 1

        def read() -> Tensor:
            kernel = torch.zeros(hidden, 1, side, side, dtype=dtype)
            kernel[: self.width, :, centre, centre] = 1
            kernel[self.width : self.first_position] = 1 / self.grid**2
            for i in range(self.positions):
                row, column = divmod(i, self.grid)
                kernel[
                    self.first_position + i, :, centre - row, centre - column
                ] = 1
            return kernel

        return LazyTensor((hidden, 1, side, side), dtype, read)

    def _differences(self, hidden: int, dtype: torch.dtype) -> LazyTensor:
        """Return the projection of that block: indicators to positions."""
        shape = (self.channels, hidden, 1, 1)

        def read() -> Tensor:
            start = self.first_position
            end = start + self.positions
            matrix = torch.zeros(shape, dtype=dtype)
            matrix[:start, :start, 0, 0].fill_diagonal_(1)
            if self.positions:
                line = torch.diag(torch.ones(self.grid))
                line -= torch.diag(torch.ones(self.grid - 1), 1)
                matrix[start:end, start:end, 0, 0] = torch.kron(line, line)
            return matrix

        return LazyTensor(shape, dtype, read)


def _under(prefix: str, tensors: Tensors) -> Tensors:
    """Put a prefix before all names."""
    return {prefix + name: lazy for name, lazy in tensors.items()}
