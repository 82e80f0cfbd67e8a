# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Backbone, neck and normaliser of a config: what comes from the backbone."""

import pytest
import torch

from minigpt4.models import (
    EfficientNetLite,
    EVAViT,
    ImageNormalizer,
    PatchMerge,
    PatchTokens,
    QFormer,
)
from minigpt4.models.vision import build_vision

EVA = dict(
    type=EVAViT,
    arch=dict(width=32, depth=1, num_heads=2, mlp_width=48),
    img_size=56,
)
LITE = dict(type=EfficientNetLite, arch='lite0', img_size=64)
Q_FORMER = dict(
    type=QFormer, num_queries=3, width=24, depth=1, num_heads=4, mlp_width=32
)


@pytest.mark.parametrize(
    'neck, tokens, width',
    [
        (Q_FORMER, 3, 24),
        (dict(type=PatchMerge), 4, 128),
        (dict(type='minigpt4.PatchMerge', merge=2), 8, 64),
        (dict(type=PatchTokens), 16, 32),
        (dict(type='minigpt4.PatchTokens', grid=3, keep_global=True), 10, 32),
    ],
)
def test_the_neck_takes_its_widths_from_the_backbone(neck, tokens, width):
    vision = build_vision(EVA, neck)
    queries = vision.neck(vision.backbone(torch.zeros(2, 3, 56, 56)))
    assert queries.shape == (2, tokens, width)
    assert vision.neck.num_tokens == tokens
    assert vision.neck.out_channels == width


def test_patch_merge_keeps_all_patches_of_a_backbone_without_class_token():
    vision = build_vision(LITE, dict(type=PatchMerge))
    queries = vision.neck(vision.backbone(torch.zeros(1, 3, 64, 64)))
    assert queries.shape == (1, 1, 4 * 1280)
    with pytest.raises(ValueError, match='merge=3, .* the 4 patches'):
        build_vision(LITE, dict(type=PatchMerge, merge=3))


def test_another_width_than_the_backbone_is_refused():
    with pytest.raises(
        ValueError, match='QFormer has in_channels=1408, .*EVAViT has 32'
    ):
        build_vision(EVA, {**Q_FORMER, 'in_channels': 1408})


def test_the_normalisation_is_that_of_the_weights():
    """EfficientNet-Lite takes (x - 127) / 128 of pixels in 0..255."""
    neck = dict(type=PatchTokens)
    normalizer = build_vision(LITE, neck).normalizer
    pixels = torch.randint(0, 256, (1, 3, 4, 4), dtype=torch.uint8)
    torch.testing.assert_close(
        normalizer.normalize(pixels), (pixels.float() - 127) / 128
    )
    equal = dict(
        type=ImageNormalizer, mean=[127 / 255] * 3, std=[128 / 255] * 3
    )
    assert build_vision(LITE, neck, equal).normalizer.mean[0] == 127 / 255
    other = dict(type=ImageNormalizer, mean=[0.5] * 3, std=[0.5] * 3)
    with pytest.raises(ValueError, match=r'mean \(0.5, .* need mean \(0.498'):
        build_vision(LITE, neck, other)
    with pytest.raises(ValueError, match='remove data_preprocessor'):
        build_vision(LITE, neck, dict(type=ImageNormalizer))


def test_a_model_of_other_vision_parts_answers(build_tiny, make_sample):
    model = build_tiny(
        backbone=LITE | dict(type='minigpt4.EfficientNetLite'),
        neck=dict(type='minigpt4.PatchTokens', grid=2, keep_global=True),
    )
    assert model.image_size == 64
    sample = make_sample([0], 'what is this', size=64)
    (answer,) = model.generate([sample], max_new_tokens=3)
    assert len(answer.token_ids) == 3
    with pytest.raises(ValueError, match='images of shape .* expected'):
        model.encode_images(torch.zeros(1, 3, 28, 28))
