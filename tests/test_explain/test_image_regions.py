# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Parts of the image behind image tokens."""

import pytest
import torch

from minigpt4.explain.image_regions import (
    attention_weights,
    embed_with_regions,
    grid_maps,
)
from minigpt4.models import PatchTokens
from minigpt4.models.q_former import Attention, PatchMerge


def patch_tokens(**settings) -> PatchTokens:
    return PatchTokens(in_channels=4, **settings)


def test_weights_give_the_output_of_the_layer():
    torch.manual_seed(0)
    layer = Attention(8, 2, 6, dropout=0.0).eval()
    x, context = torch.randn(2, 3, 8), torch.randn(2, 5, 6)
    weights = attention_weights(layer, x, context)
    assert weights.shape == (2, 2, 3, 5)
    assert torch.allclose(weights.sum(-1), torch.ones(2, 2, 3))
    value = layer.value(context).unflatten(-1, (2, 4)).transpose(1, 2)
    output = layer.out((weights @ value).transpose(1, 2).flatten(2))
    assert torch.allclose(layer(x, context), layer.norm(x + output), atol=1e-6)


def test_maps_of_a_q_former(build_tiny):
    model = build_tiny(neck=dict(depth=4)).eval()
    pixels = torch.randn(1, 3, 28, 28)
    tokens, regions = embed_with_regions(model, pixels)
    with torch.no_grad():
        assert torch.equal(tokens, model.embed_images(pixels))
    assert regions.kind == 'cross-attention' and regions.grid == (2, 2)
    assert regions.layers == [0, 2]
    assert regions.layer_maps.shape == (2, 3, 2, 2)
    ones = torch.ones(2, 3)
    assert torch.allclose(regions.layer_maps.sum((2, 3)), ones)
    assert torch.allclose(regions.maps, regions.layer_maps.mean(0))
    # patches and class token have all of a layer's attention
    with torch.no_grad():
        features = model.neck.ln_vision(model.backbone(pixels))
    query = model.neck.norm(model.neck.query_tokens)
    first = model.neck.layers[0]
    weights = attention_weights(
        first.cross_attention, first.attention(query, query), features
    ).mean(1)[0]
    share = regions.class_share[0]
    assert torch.allclose(share, weights[:, 0], atol=1e-6)
    expected = (weights[:, 1:] / (1 - share[:, None])).reshape(3, 2, 2)
    assert torch.allclose(regions.layer_maps[0], expected, atol=1e-5)


def test_maps_of_a_backbone_without_class_token(build_tiny):
    model = build_tiny().eval()
    pixels = torch.randn(1, 3, 28, 28)
    forward = model.backbone.forward
    model.backbone.forward = lambda x: forward(x)[:, 1:]
    model.backbone.num_class_tokens = 0
    _, regions = embed_with_regions(model, pixels)
    assert regions.layer_maps.shape == (1, 3, 2, 2)
    ones = torch.ones(1, 3)
    assert torch.allclose(regions.layer_maps.sum((2, 3)), ones)
    assert torch.equal(regions.class_share, 0 * ones)


def test_hooks_are_removed(build_tiny, monkeypatch):
    model = build_tiny().eval()
    monkeypatch.setattr(
        type(model), 'embed_images', lambda *_: (_ for _ in ()).throw(OSError)
    )
    with pytest.raises(OSError):
        embed_with_regions(model, torch.zeros(1, 3, 28, 28))
    hooks = [m._forward_pre_hooks for m in model.neck.modules()]
    assert not any(hooks)


def test_maps_of_grids():
    whole = grid_maps(patch_tokens(grid_size=(2, 3)), 2, 3)
    assert torch.equal(whole.flatten(1), torch.eye(6))
    neck = patch_tokens(grid_size=(9, 9), grid=2, keep_global=True)
    maps = grid_maps(neck, 9, 9)
    assert maps.shape == (neck.num_tokens, 2, 2)
    assert maps[0].tolist() == [[0.25, 0.25], [0.25, 0.25]]
    assert maps[2].tolist() == [[0, 1], [0, 0]]
    merged = grid_maps(PatchMerge(8, 4, merge=2), 2, 2)
    assert merged.tolist() == [[[0.5, 0.5], [0, 0]], [[0, 0], [0.5, 0.5]]]
    wide = grid_maps(PatchMerge(8, 8, merge=2), 2, 4)
    assert wide.shape == (4, 2, 4)
    assert wide[1].tolist() == [[0, 0, 0.5, 0.5], [0, 0, 0, 0]]


def test_a_merged_token_is_of_the_patches_of_its_map():
    """The map agrees with the neck: change a patch, and see which token."""
    for neck in (
        PatchMerge(8, 16, merge=2, num_class_tokens=0),
        patch_tokens(grid_size=(4, 4), grid=2),
    ):
        maps = grid_maps(neck, 4, 4)
        scale = 4 // maps.shape[1]
        for patch in range(16):
            features = torch.zeros(1, 16, neck.out_channels)
            if isinstance(neck, PatchMerge):
                features = torch.zeros(1, 16, 8)
            before = neck(features)
            features[0, patch, 0] = 1
            changed = (neck(features) != before).any(2)[0]
            row, column = divmod(patch, 4)
            cell = maps[:, row // scale, column // scale]
            assert torch.equal(changed, cell > 0)


def test_a_learned_prefix_has_no_map(build_tiny):
    model = build_tiny(
        neck=dict(type='minigpt4.PatchTokens', keep_global=True),
        head=dict(num_prefix_tokens=2),
    ).eval()
    _, regions = embed_with_regions(model, torch.randn(1, 3, 28, 28))
    assert regions.names[:4] == [
        *('prefix 1', 'prefix 2', 'whole image', 'row 1, column 1'),
    ]
    assert regions.maps.sum((1, 2)).tolist() == [0, 0, 1, 1, 1, 1, 1]


def test_another_neck_has_no_maps(build_tiny):
    model = build_tiny().eval()
    neck = model.neck

    class Other(torch.nn.Module):
        num_tokens, frozen = 3, True

        def forward(self, features):
            return neck(features)

    model.neck = Other()
    _, regions = embed_with_regions(model, torch.randn(1, 3, 28, 28))
    assert regions.kind == 'none' and regions.grid is None
    assert regions.names == ['token 1', 'token 2', 'token 3']
