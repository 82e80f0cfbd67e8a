# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""EfficientNet-Lite and its image tokens as ``EfficientNetModel``.

That class of transformers has squeeze-and-excitation in each block; with
weights of zero and a large bias it multiplies by exactly 1. One factor scales
all widths there, that of the stem too: a wider stem has channels of zeros.
"""

from typing import Any

import torch

from ..models import EfficientNetLite, PatchTokens
from ..models.efficientnet_lite import scale_width
from ..weights.layouts import to_layout
from ..weights.read import LazyTensor
from .constant_tensors import Constants, cut, extend
from .export_sources import Tensors
from .token_blocks import TokenBlocks, pooling_windows

_TOP = 'encoder.top_'
_FIRST = 'encoder.blocks.0.'


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


def efficientnet_config(
    backbone: EfficientNetLite, neck: PatchTokens, position_bias: bool = False
) -> dict[str, Any]:
    """Return the ``vision_config`` of a folder.

    Args:
        backbone: The vision encoder.
        neck: The pooling, which :func:`refuse_pooling` accepts.
        position_bias: Whether the head has position biases.
    """
    tokens = TokenBlocks(backbone, neck, position_bias)
    stages, odd = _stages(backbone)
    stages += [
        dict(
            in_channels=block.in_channels,
            out_channels=block.out_channels,
            kernel_sizes=block.kernel,
            strides=block.stride,
            num_block_repeats=1,
            expand_ratios=block.expand,
        )
        for block in tokens.blocks
    ]
    lists = {key: [stage[key] for stage in stages] for key in stages[0]}
    factor = tokens.channels / tokens.width
    for key in ('in_channels', 'out_channels'):
        # the class multiplies and rounds to a multiple of 8, as all are
        lists[key] = [round(width / factor) for width in lists[key]]
    lists['in_channels'][0] = backbone.stem.conv.out_channels
    return dict(
        model_type='efficientnet',
        image_size=backbone.img_size,
        width_coefficient=factor,
        depth_coefficient=1.0,
        depth_divisor=8,
        **lists,
        depthwise_padding=odd,
        squeeze_expansion_ratio=1e-6,  # one channel
        hidden_act='relu6',
        hidden_dim=tokens.channels,
        hidden_size=tokens.channels,  # FastVLM reads this name
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


def efficientnet_tensors(
    backbone: EfficientNetLite,
    neck: PatchTokens,
    tensors: Tensors,
    position_bias: bool = False,
) -> Tensors:
    """Return the tensors of ``EfficientNetModel`` by their names there.

    Args:
        backbone: The vision encoder.
        neck: The pooling, which :func:`refuse_pooling` accepts.
        tensors: The tensors of the vision encoder by our names.
        position_bias: Whether the head has position biases.
    """
    tokens = TokenBlocks(backbone, neck, position_bias)
    constants = Constants(
        tensors['head.conv.weight'].dtype, backbone.stem.norm.eps
    )
    found = to_layout('efficientnet_lite', 'huggingface', tensors)
    factor = tokens.channels / tokens.width
    stem = scale_width(backbone.stem.conv.out_channels, factor)
    found = _extend_stem(found, stem)
    blocks: Any = backbone.blocks
    for i, block in enumerate(blocks):
        channels = block.depthwise.conv.in_channels if i else stem
        found |= constants.open_gate(f'encoder.blocks.{i}.', channels)
    head = {
        name.removeprefix(_TOP): found.pop(name)
        for name in [*found]
        if name.startswith(_TOP)
    }
    found |= tokens.tensors(len(blocks), head, constants)
    for name in [name for name in found if name.endswith('.running_mean')]:
        counter = name.removesuffix('running_mean') + 'num_batches_tracked'
        found[counter] = LazyTensor.of(torch.tensor(0))
    return found


def _extend_stem(tensors: Tensors, width: int) -> Tensors:
    """Add channels of zeros to the stem.

    Args:
        tensors: Tensors by the names of ``EfficientNetModel``.
        width: Channels of the stem there.
    """
    found = dict(tensors)
    for name, lazy in tensors.items():
        fill = float(name.endswith('.running_var'))
        if name.startswith(('embeddings.', f'{_FIRST}depthwise_conv.')):
            found[name] = extend(lazy, 0, width, fill)
        elif name == f'{_FIRST}projection.project_conv.weight':
            found[name] = extend(lazy, 1, width, fill)
    return found


def backbone_tensors(
    backbone: EfficientNetLite,
    neck: PatchTokens,
    position_bias: bool,
    tensors: Tensors,
) -> Tensors:
    """Return exported tensors as if the backbone alone had been exported.

    Args:
        backbone: The vision encoder, without weights.
        neck: The pooling of the export.
        position_bias: Whether the head has position biases.
        tensors: Tensors by the names of ``EfficientNetModel``. Those of
            another shape than in an export are not changed.
    """
    own = {
        name: LazyTensor.of(tensor)
        for name, tensor in backbone.state_dict().items()
        if tensor.is_floating_point()
    }
    exported = efficientnet_tensors(backbone, neck, own, position_bias)
    expansion = f'encoder.blocks.{len(backbone.blocks)}.expansion.expand_'
    found = dict(tensors)
    for name, lazy in to_layout(
        'efficientnet_lite', 'huggingface', own
    ).items():
        source = name.replace(_TOP, expansion)
        if source not in exported:
            source = name
        tensor = found.pop(source, None)
        found.pop(name, None)  # the identity, if the source is an expansion
        if tensor is not None:
            same = tensor.shape == exported[source].shape
            found[name] = cut(tensor, lazy.shape) if same else tensor
    return found
