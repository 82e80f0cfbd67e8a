# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Backbones of MMPretrain: outputs, weights, sizes, errors."""

import pytest
import torch

from minigpt4.models import ImageNormalizer, MMPretrainBackbone, PatchTokens
from minigpt4.models.vision import build_vision

VIT = dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=24)
RESNET = dict(type='mmpretrain.ResNet', depth=18, base_channels=8, img_size=64)
RESNET |= dict(stem_channels=8)
CONVNEXT = dict(
    type='mmpretrain.ConvNeXt',
    arch=dict(depths=[1, 1, 1, 1], channels=[8, 8, 16, 16]),
    gap_before_final_norm=False,
    img_size=64,
)
PLAIN_VIT = dict(type='mmpretrain.VisionTransformer', arch=VIT, img_size=32)
CLIP = PLAIN_VIT | dict(pre_norm=True, out_type='raw')  # as MMPretrain's CLIP
DINO = PLAIN_VIT | dict(layer_scale_init_value=1.0, patch_size=8)
EVA02 = dict(
    type='mmpretrain.ViTEVA02',
    arch=VIT,
    img_size=32,
    sub_ln=True,
    final_norm=False,
)
SWIN = dict(
    type='mmpretrain.SwinTransformer',
    arch=dict(embed_dims=8, depths=[1, 1], num_heads=[2, 2]),
    img_size=32,
    window_size=4,
    out_indices=(1,),
)
CASES = [
    (RESNET, 0, (2, 2), 64),
    (CONVNEXT, 0, (2, 2), 16),
    (PLAIN_VIT | dict(out_type='featmap'), 0, (2, 2), 16),
    (PLAIN_VIT | dict(out_type='raw'), 1, (2, 2), 16),
    (
        PLAIN_VIT | dict(out_type='raw', with_cls_token=False),
        0,
        (2, 2),
        16,
    ),
    (CLIP, 1, (2, 2), 16),
    (DINO | dict(out_type='raw'), 1, (4, 4), 16),
    (EVA02 | dict(out_type='featmap'), 0, (2, 2), 16),
    (EVA02 | dict(out_type='raw'), 1, (2, 2), 16),
    (SWIN, 0, (4, 4), 16),
    # with a class token and one for distillation, of which one is kept
    (
        dict(
            type='mmpretrain.DistilledVisionTransformer',
            arch=VIT,
            img_size=32,
            out_type='raw',
        ),
        1,
        (2, 2),
        16,
    ),
]


@pytest.mark.parametrize('config, prefix, grid, width', CASES)
def test_tokens_of_every_kind(config, prefix, grid, width):
    backbone = MMPretrainBackbone(**config)
    side = backbone.img_size
    tokens = backbone(torch.randn(2, 3, side, side))
    assert backbone.num_class_tokens == prefix
    assert backbone.grid_size == grid
    assert backbone.out_channels == width
    assert tokens.shape == (2, prefix + grid[0] * grid[1], width)
    assert backbone.name == config['type']
    assert not backbone.training and not tokens.requires_grad


def test_tokens_are_those_of_the_feature_map():
    backbone = MMPretrainBackbone(**RESNET)
    images = torch.randn(1, 3, 64, 64)
    (features,) = backbone.model(images)
    tokens = backbone(images)
    assert torch.equal(tokens[0, 1], features[0, :, 0, 1])
    raw = MMPretrainBackbone(**PLAIN_VIT, out_type='raw')
    as_map = MMPretrainBackbone(**PLAIN_VIT, out_type='featmap')
    as_map.load_state_dict(raw.state_dict())
    images = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(raw(images)[:, 1:], as_map(images))


@pytest.mark.parametrize(
    'config, found',
    [
        (PLAIN_VIT, r'shape \(1, 16\).* out_type='),
        (PLAIN_VIT | dict(out_type='avg_featmap'), r'shape \(1, 16\)'),
        (
            CONVNEXT | dict(gap_before_final_norm=True),
            r'shape \(1, 16\).*gap_before_final_norm=False',
        ),
        (RESNET | dict(out_indices=(2, 3)), 'returns 2 outputs; set out_ind'),
        (RESNET | dict(depth=19), 'cannot be built .*19'),
        (RESNET | dict(init_cfg={}), 'init_cfg, .* set checkpoint'),
        (dict(type='mmpretrain.Nothing'), 'has no backbone Nothing'),
        (
            dict(
                type='mmpretrain.LinearClsHead',
                num_classes=2,
                in_channels=3,
                loss=dict(type='mmpretrain.CrossEntropyLoss'),
            ),
            'LinearClsHead cannot encode',
        ),
    ],
)
def test_backbones_without_a_map_are_refused(config, found):
    with pytest.raises(ValueError, match=found):
        build_vision(config, dict(type=PatchTokens))


@pytest.mark.parametrize('prefix', ['backbone.', ''])
@pytest.mark.parametrize(
    'config', [RESNET, DINO | dict(out_type='raw'), SWIN, CONVNEXT]
)
def test_weights_of_a_classifier_load(tmp_path, config, prefix):
    torch.manual_seed(0)
    source = MMPretrainBackbone(**config)
    for parameter in source.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    tensors = {
        prefix + name: tensor
        for name, tensor in source.model.state_dict().items()
    }
    tensors['head.fc.weight'] = torch.zeros(10, 4)
    path = str(tmp_path / 'classifier.pth')
    torch.save(dict(meta=dict(epoch=1), state_dict=tensors), path)
    torch.manual_seed(1)
    loaded = MMPretrainBackbone(**config, checkpoint=path)
    side = loaded.img_size
    images = torch.randn(2, 3, side, side)
    assert torch.equal(loaded(images), source(images))


def test_weights_of_another_network_are_refused(tmp_path):
    path = str(tmp_path / 'resnet.pth')
    torch.save(MMPretrainBackbone(**RESNET).model.state_dict(), path)
    with pytest.raises(ValueError, match='lacks .* tensors of ConvNeXt'):
        MMPretrainBackbone(**CONVNEXT, checkpoint=path)


def test_positions_of_another_size_are_interpolated(tmp_path):
    path = str(tmp_path / 'vit.pth')
    source = MMPretrainBackbone(**CLIP)
    torch.save(source.model.state_dict(), path)
    loaded = MMPretrainBackbone(**{**CLIP, 'img_size': 48}, checkpoint=path)
    assert loaded.grid_size == (3, 3)
    # MMPretrain's own rule for images of another size
    images = torch.randn(1, 3, 48, 48)
    (expected,) = source.model(images)
    torch.testing.assert_close(loaded(images), expected)


def test_the_config_has_to_give_the_normalisation():
    neck = dict(type=PatchTokens)
    with pytest.raises(ValueError, match='ResNet do not state their norm'):
        build_vision(RESNET, neck)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    normalizer = dict(type=ImageNormalizer, mean=mean, std=std)
    vision = build_vision(RESNET, neck, normalizer)
    assert vision.normalizer.mean.flatten().tolist() == pytest.approx(mean)
    assert isinstance(vision.backbone, MMPretrainBackbone)


def test_a_class_of_mmpretrain_is_taken_as_its_name():
    from mmpretrain.models import ResNet

    normalizer = dict(type=ImageNormalizer)
    for kind in (ResNet, 'mmpretrain.models.backbones.resnet.ResNet'):
        vision = build_vision(
            RESNET | dict(type=kind), dict(type=PatchTokens), normalizer
        )
        assert vision.backbone.name == 'mmpretrain.ResNet'
        assert vision.neck.out_channels == 64


def test_unfrozen_is_trained_in_fp32():
    backbone = MMPretrainBackbone(**RESNET, frozen=False, dtype='bfloat16')
    assert backbone.train().training
    backbone(torch.randn(2, 3, 64, 64)).sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in backbone.parameters())


def test_low_precision_and_other_sizes():
    backbone = MMPretrainBackbone(**RESNET, dtype='bfloat16')
    assert backbone(torch.randn(1, 3, 64, 64)).dtype == torch.bfloat16
    with pytest.raises(ValueError, match=r'expected \(B, 3, 64, 64\)'):
        backbone(torch.randn(1, 3, 32, 32))
