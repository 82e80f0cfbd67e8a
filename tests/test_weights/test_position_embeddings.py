# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Position embeddings for another number of patches."""

import pytest
import torch

from minigpt4.weights.position_embeddings import (
    resize_lazily,
    resize_positions,
)
from minigpt4.weights.read import LazyTensor


def official(table, new_size, num_extra_tokens):
    """As ``interpolate_pos_embed`` of LAVIS, written again for this test."""
    width = table.shape[-1]
    old_size = int((table.shape[-2] - num_extra_tokens) ** 0.5)
    extra = table[:, :num_extra_tokens]
    patches = table[:, num_extra_tokens:]
    patches = patches.reshape(-1, old_size, old_size, width)
    patches = torch.nn.functional.interpolate(
        patches.permute(0, 3, 1, 2),
        size=(new_size, new_size),
        mode='bicubic',
        align_corners=False,
    )
    patches = patches.permute(0, 2, 3, 1).flatten(1, 2)
    return torch.cat((extra, patches), dim=1)


@pytest.mark.parametrize('side', [26, 32])  # of 364 and 448 pixels
@pytest.mark.parametrize('prefix', [0, 1])
def test_equal_to_the_official_rule(side, prefix):
    table = torch.randn(1, prefix + 16 * 16, 12)
    resized = resize_positions(table, (side, side), prefix)
    assert torch.equal(resized, official(table, side, prefix))


def test_halves_are_interpolated_in_fp32():
    table = torch.randn(1, 5, 4).half()
    resized = resize_positions(table, (3, 3), 1)
    assert resized.dtype == torch.float16
    assert torch.equal(resized, official(table.float(), 3, 1).half())


def test_a_tensor_is_resized_when_it_is_read():
    table = LazyTensor.of(torch.randn(1, 5, 4))
    assert resize_lazily(table, (2, 2), 1) is table
    resized = resize_lazily(table, (2, 3), 1)
    assert resized.shape == resized.read().shape == (1, 7, 4)


def test_a_table_of_no_square_is_refused():
    table = torch.randn(1, 7, 4)
    with pytest.raises(ValueError, match='7 tokens; expected 1 and a square'):
        resize_positions(table, (2, 2), 1)
    lazy = LazyTensor.of(table)
    assert resize_lazily(lazy, (2, 2), 1) is lazy
