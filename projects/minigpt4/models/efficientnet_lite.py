# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""A small backbone for CPUs: EfficientNet-Lite.

MMPretrain's EfficientNet is not used: it has no Lite widths (a stem and head
of fixed width) and builds squeeze-and-excitation into each block.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import convert_conv2d_weight_memory_format

from ..registry import MODELS
from ..weights.load_frozen import load_weights, meta_device_if, torch_dtype
from .backbone import Normalization, check_images, map_to_tokens


class Stage(NamedTuple):
    """Blocks of one resolution, before scaling.

    Attributes:
        kernel: Side of the depthwise kernel.
        stride: Stride of the first block.
        expand: Factor from the input width to that of the depthwise layer.
        width: Output width.
        depth: Blocks.
    """

    kernel: int
    stride: int
    expand: int
    width: int
    depth: int


_STAGES = (
    Stage(3, 1, 1, 16, 1),
    Stage(3, 2, 6, 24, 2),
    Stage(5, 2, 6, 40, 2),
    Stage(3, 2, 6, 80, 3),
    Stage(5, 1, 6, 112, 3),
    Stage(5, 2, 6, 192, 4),
    Stage(3, 1, 6, 320, 1),
)
_STEM_WIDTH = 32
_HEAD_WIDTH = 1280
# factor of the widths, factor of the depths, side of the images
ARCHS = {
    'lite0': (1.0, 1.0, 224),
    'lite1': (1.0, 1.1, 240),
    'lite2': (1.1, 1.2, 260),
    'lite3': (1.2, 1.4, 280),
    'lite4': (1.4, 1.8, 300),
}


def scale_width(width: int, factor: float) -> int:
    """Scale a width to a multiple of 8, at least 90 % of the exact value."""
    exact = width * factor
    scaled = max(8, int(exact + 4) // 8 * 8)
    return scaled + 8 if scaled < 0.9 * exact else scaled


class ConvNorm(nn.Module):
    """Convolution with TensorFlow's padding, batch norm, optional ReLU6."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        activation: bool = True,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels,
            out_channels,
            kernel,
            stride,
            groups=groups,
            bias=False,
        )
        self.norm = nn.BatchNorm2d(out_channels, eps=1e-3, momentum=0.01)
        self.kernel = kernel
        self.stride = stride
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` to ``(B, C', ceil(H / stride), ...)``."""
        if self.kernel > 1:
            x = F.pad(x, self._padding(*x.shape[-2:]))
        x = self.norm(self.conv(x))
        return F.relu6(x) if self.activation else x

    def _padding(self, height: int, width: int) -> list[int]:
        """Padding left, right, above and below; the larger half is last."""
        sides = []
        for size in (width, height):
            out = math.ceil(size / self.stride)
            total = max((out - 1) * self.stride + self.kernel - size, 0)
            sides += [total // 2, total - total // 2]
        return sides


class Block(nn.Module):
    """An inverted residual block without squeeze-and-excitation."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        stride: int,
        expand: int,
    ) -> None:
        super().__init__()
        hidden = in_channels * expand
        self.expand = ConvNorm(in_channels, hidden) if expand > 1 else None
        self.depthwise = ConvNorm(hidden, hidden, kernel, stride, hidden)
        self.project = ConvNorm(hidden, out_channels, activation=False)
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` to ``(B, C', ceil(H / stride), ...)``."""
        y = x if self.expand is None else self.expand(x)
        y = self.project(self.depthwise(y))
        return x + y if self.residual else y


@MODELS.register_module()
class EfficientNetLite(nn.Module):
    """EfficientNet-Lite: ``(B, 3, 260, 260)`` to ``(B, 81, 1280)`` (lite2).

    The tokens are the last feature map, after ReLU6. The classifier of the
    weights' file is not used.

    Args:
        arch: ``'lite0'`` to ``'lite4'``.
        img_size: Side of the square input in pixels; None is that of the
            arch.
        checkpoint: File, folder or URL of the weights, in the names of the
            package ``efficientnet-lite-pytorch`` or in ours; None leaves them
            random.
        dtype: ``'auto'`` (bf16 or fp16 on a GPU, fp32 on a CPU) or the name
            of a floating-point type.
        frozen: Whether the weights are not trained; then no graph is built
            and the batch norms use the stored statistics.

    Source: ``efficientnet/lite/efficientnet_lite_builder.py`` of
    tensorflow/tpu; weights and PyTorch names of ``efficientnet-lite-pytorch``
    0.1.0.
    """

    # (x - 127) / 128 for x in 0..255
    normalization: Normalization = ((127 / 255,) * 3, (128 / 255,) * 3)
    name = 'EfficientNetLite'
    num_class_tokens = 0

    def __init__(
        self,
        arch: str = 'lite2',
        img_size: int | None = None,
        checkpoint: str | None = None,
        dtype: str = 'auto',
        frozen: bool = True,
    ) -> None:
        super().__init__()
        if arch not in ARCHS:
            raise ValueError(
                f'unknown EfficientNetLite arch {arch!r}; expected one of '
                f'{", ".join(ARCHS)}.'
            )
        width_factor, depth_factor, size = ARCHS[arch]
        self.img_size = size if img_size is None else img_size
        side = math.ceil(self.img_size / 32)
        self.grid_size = (side, side)
        self.out_channels = _HEAD_WIDTH
        self.frozen = frozen
        with meta_device_if(checkpoint):
            self.stem = ConvNorm(3, _STEM_WIDTH, 3, 2)
            blocks = []
            width = _STEM_WIDTH
            for i, stage in enumerate(_STAGES):
                out = scale_width(stage.width, width_factor)
                depth = stage.depth
                if 0 < i < len(_STAGES) - 1:
                    depth = math.ceil(depth * depth_factor)
                for j in range(depth):
                    stride = stage.stride if j == 0 else 1
                    blocks.append(
                        Block(width, out, stage.kernel, stride, stage.expand)
                    )
                    width = out
            self.blocks = nn.ModuleList(blocks)
            self.head = ConvNorm(width, _HEAD_WIDTH)
        # a trained backbone has fp32 weights: AMP casts them when needed
        weights_dtype = torch_dtype(dtype) if frozen else torch.float32
        if checkpoint is not None:
            load_weights(self, 'efficientnet_lite', checkpoint, weights_dtype)
        self.to(weights_dtype)
        # a fifth less time on a CPU (one thread, 8 images of 260 pixels)
        convert_conv2d_weight_memory_format(self, torch.channels_last)
        self.requires_grad_(not frozen)
        self.train()

    def train(self, mode: bool = True) -> 'EfficientNetLite':
        """Set the mode; a frozen backbone stays in eval mode."""
        return super().train(mode and not self.frozen)

    def compile_layers(self, backend: str = 'inductor') -> None:
        """Compile the blocks."""
        for block in self.blocks:
            block.compile(backend=backend)

    def forward(self, images: Tensor) -> Tensor:
        """Encode images.

        Args:
            images: ``(B, 3, img_size, img_size)``, normalised, any float.

        Returns:
            ``(B, h * w, 1280)`` in the module's dtype, values in 0..6.

        Raises:
            ValueError: The images have another size.
        """
        check_images(images, self.img_size)
        x = images.to(
            self.stem.conv.weight.dtype, memory_format=torch.channels_last
        )
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return map_to_tokens(self.head(x))
