# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Windows and widths of the blocks for image tokens."""

import pytest
import torch

from minigpt4.convert.token_blocks import (
    TokenBlock,
    TokenBlocks,
    pooling_windows,
)
from minigpt4.models import EfficientNetLite, PatchTokens


@pytest.mark.parametrize(
    ('side', 'grid', 'windows'),
    [
        (9, 9, []),
        (9, 4, [3]),
        (8, 4, [2]),
        (8, 2, [2, 2]),
        (7, 3, [3]),
        (6, 1, [2, 3]),
        (9, 3, None),
        (9, 5, None),
        (9, 2, None),  # overlapping windows of overlapping windows
    ],
)
def test_windows(side, grid, windows):
    assert pooling_windows(side, grid) == windows


@pytest.mark.parametrize(
    ('img_size', 'grid', 'with_mean', 'position_bias', 'blocks'),
    [
        (260, None, False, False, []),
        (260, 4, False, False, [(3, 2, 320, 4, 1280)]),
        (
            260,
            4,
            True,
            True,
            [(3, 2, 320, 4, 2576), (7, 1, 2576, 1, 2576)],
        ),
        # the further block is the first one
        (260, None, True, False, [(17, 1, 320, 8, 2560)]),
        (
            128,
            1,
            False,
            True,
            [
                (2, 2, 320, 4, 1280),
                (2, 2, 1280, 1, 1288),
                (1, 1, 1288, 1, 1288),
            ],
        ),
    ],
)
def test_blocks(img_size, grid, with_mean, position_bias, blocks):
    with torch.device('meta'):
        backbone = EfficientNetLite(arch='lite0', img_size=img_size)
    neck = PatchTokens(
        grid,
        with_mean=with_mean,
        in_channels=1280,
        grid_size=backbone.grid_size,
    )
    found = TokenBlocks(backbone, neck, position_bias)
    assert found.blocks == [TokenBlock(*block) for block in blocks]
    assert found.channels == (blocks[-1][-1] if blocks else 1280)
