# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""EfficientNetModel of transformers computes our pooled patches."""

import pytest
import torch
from transformers import EfficientNetConfig, EfficientNetModel

from minigpt4.convert.efficientnet_format import (
    efficientnet_config,
    efficientnet_tensors,
    refuse_pooling,
)
from minigpt4.models import EfficientNetLite, PatchTokens
from minigpt4.weights.read import LazyTensor

# of values of up to 6; 5.4e-4 was seen with the instructions of AVX2
ROUNDING = dict(atol=2e-3, rtol=1e-3)


def make_backbone(arch='lite0', **settings):
    """A backbone whose features use the whole range of ReLU6."""
    torch.manual_seed(0)
    backbone = EfficientNetLite(arch=arch, dtype='float32', **settings)
    for module in backbone.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 1, 3)
            torch.nn.init.normal_(module.bias, std=0.5)
            torch.nn.init.normal_(module.running_mean, std=0.1)
            torch.nn.init.uniform_(module.running_var, 0.3, 1)
    return backbone


def make_neck(backbone, grid, **settings):
    return PatchTokens(
        grid, in_channels=1280, grid_size=backbone.grid_size, **settings
    )


def export(backbone, neck, position_bias=False):
    """EfficientNetModel with the exported settings and tensors."""
    settings = efficientnet_config(backbone, neck, position_bias)
    settings.pop('model_type')
    theirs = EfficientNetModel(EfficientNetConfig(**settings)).eval()
    tensors = {
        name: LazyTensor.of(tensor)
        for name, tensor in backbone.state_dict().items()
        if tensor.is_floating_point()
    }
    exported = efficientnet_tensors(backbone, neck, tensors, position_bias)
    theirs.load_state_dict(
        {name: lazy.read() for name, lazy in exported.items()}
    )
    return theirs


@pytest.mark.parametrize(
    ('arch', 'img_size', 'grid'),
    [
        ('lite0', 288, None),  # 9 x 9
        ('lite0', 260, 4),  # stages of odd size
        ('lite0', 224, 3),
        ('lite0', 64, 1),
        ('lite0', 128, 1),  # two blocks
        ('lite4', 64, 1),
    ],
)
@torch.no_grad()
def test_map_equals_pooled_patches(arch, img_size, grid):
    backbone = make_backbone(arch, img_size=img_size)
    neck = make_neck(backbone, grid)
    theirs = export(backbone, neck)
    images = torch.randn(2, 3, img_size, img_size)
    expected = neck(backbone(images))
    found = theirs(images).last_hidden_state.flatten(2).permute(0, 2, 1)
    assert 1 < expected.max() <= 6
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, **ROUNDING)


@pytest.mark.parametrize(
    ('arch', 'img_size', 'grid', 'with_mean', 'position_bias'),
    [
        ('lite0', 260, 4, True, False),
        ('lite0', 260, 4, False, True),
        ('lite0', 260, 4, True, True),
        ('lite0', 128, 4, True, True),  # no pooling
        ('lite0', 160, None, True, True),
        ('lite0', 128, 1, True, True),
        ('lite2', 128, 2, True, True),
        ('lite4', 128, 2, True, True),
    ],
)
@torch.no_grad()
def test_mean_and_positions(arch, img_size, grid, with_mean, position_bias):
    """The channels are those of our tokens, one per position, and zeros."""
    backbone = make_backbone(arch, img_size=img_size)
    neck = make_neck(backbone, grid, with_mean=with_mean)
    theirs = export(backbone, neck, position_bias)
    images = torch.randn(2, 3, img_size, img_size)
    expected = neck(backbone(images))
    tokens = theirs(images).last_hidden_state.flatten(2).permute(0, 2, 1)
    width = neck.out_channels
    torch.testing.assert_close(tokens[:, :, :width], expected, **ROUNDING)
    count = neck.num_tokens if position_bias else 0
    torch.testing.assert_close(
        tokens[:, :, width : width + count],
        torch.eye(neck.num_tokens)[:, :count].expand(2, -1, -1),
        atol=1e-6,
        rtol=0,
    )
    assert not tokens[:, :, width + count :].any()
    assert tokens.shape[2] - width - count < 8


@pytest.mark.parametrize(
    ('img_size', 'neck', 'message'),
    [
        (259, dict(grid=None), 'img_size=259'),
        (260, dict(grid=4, keep_global=True), 'keep_global=True'),
        (260, dict(grid=3), '9 x 9 patches to 3 x 3, .* a grid of 4 or 9,'),
    ],
)
def test_image_tokens_that_cannot_be_exported(img_size, neck, message):
    with torch.device('meta'):
        backbone = EfficientNetLite(img_size=img_size)
        built = make_neck(backbone, **neck)
    with pytest.raises(ValueError, match=message):
        refuse_pooling(backbone, built)
