# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The neck that pools patches: order, global token, uneven grids."""

import pytest
import torch

from minigpt4.models import PatchTokens


def make(grid, keep_global=False, size=(4, 6), prefix=0, with_mean=False):
    return PatchTokens(
        grid,
        keep_global,
        with_mean,
        in_channels=5,
        grid_size=size,
        num_class_tokens=prefix,
    )


def test_each_token_is_the_mean_of_its_part():
    features = torch.randn(2, 24, 5)
    neck = make(2)
    tokens = neck(features)
    assert tokens.shape == (2, neck.num_tokens, neck.out_channels)
    image = features.view(2, 4, 6, 5)
    for number, (rows, columns) in enumerate(
        [
            (slice(0, 2), slice(0, 3)),
            (slice(0, 2), slice(3, 6)),
            (slice(2, 4), slice(0, 3)),
            (slice(2, 4), slice(3, 6)),
        ]
    ):
        part = image[:, rows, columns].mean((1, 2))
        torch.testing.assert_close(tokens[:, number], part)


def test_parts_overlap_where_the_grid_does_not_divide():
    features = torch.randn(1, 16, 5)
    tokens = make(3, size=(4, 4))(features)
    assert tokens.shape == (1, 9, 5)
    middle = features.view(1, 4, 4, 5)[:, 1:3, 1:3].mean((1, 2))
    torch.testing.assert_close(tokens[:, 4], middle)


@pytest.mark.parametrize('grid', [None, 2])
def test_the_global_token_is_the_class_token_or_the_mean(grid):
    patches = torch.randn(2, 24, 5)
    neck = make(grid, True)
    tokens = neck(patches)
    assert tokens.shape[1] == neck.num_tokens
    assert neck.num_tokens == 1 + (24 if grid is None else 4)
    torch.testing.assert_close(tokens[:, 0], patches.mean(1))
    torch.testing.assert_close(tokens[:, 1:], make(grid)(patches))
    class_token = torch.randn(2, 1, 5)
    features = torch.cat((class_token, patches), 1)
    tokens = make(grid, True, prefix=1)(features)
    torch.testing.assert_close(tokens[:, :1], class_token)
    torch.testing.assert_close(tokens[:, 1:], make(grid)(patches))
    torch.testing.assert_close(
        make(grid, prefix=1)(features), make(grid)(patches)
    )


@pytest.mark.parametrize('keep_global', [False, True])
def test_mean_of_the_tokens_follows_the_channels_of_each(keep_global):
    patches = torch.randn(2, 24, 5)
    neck = make(2, keep_global, with_mean=True)
    tokens = neck(patches)
    assert tokens.shape == (2, neck.num_tokens, neck.out_channels)
    pooled = make(2, keep_global)(patches)
    torch.testing.assert_close(tokens[..., :5], pooled)
    mean = pooled[:, keep_global:].mean(1, keepdim=True)
    torch.testing.assert_close(tokens[..., 5:], mean.expand_as(pooled))
    assert neck.settings != make(2, keep_global).settings


def test_low_precision_is_pooled_in_fp32():
    features = torch.randn(1, 24, 5).bfloat16()
    tokens = make(1)(features)
    assert tokens.dtype == torch.float32
    torch.testing.assert_close(tokens[:, 0], features.float().mean(1))


def test_a_grid_finer_than_the_patches_is_refused():
    with pytest.raises(ValueError, match='grid=5, but .* 4 x 6 patches'):
        make(5)
    with pytest.raises(ValueError, match='from 1 to 4'):
        make(0)
