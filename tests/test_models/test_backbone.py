# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""What all backbones share: the check of images, the order of tokens."""

import pytest
import torch

from minigpt4.models.backbone import check_images, map_to_tokens


def test_tokens_of_a_map_are_in_raster_order():
    features = torch.arange(12).view(1, 2, 2, 3)
    assert map_to_tokens(features).tolist() == [
        [[0, 6], [1, 7], [2, 8], [3, 9], [4, 10], [5, 11]]
    ]


@pytest.mark.parametrize('shape', [(1, 3, 8, 9), (1, 1, 8, 8), (3, 8, 8)])
def test_images_of_another_shape_are_refused(shape):
    check_images(torch.zeros(2, 3, 8, 8), 8)
    with pytest.raises(ValueError, match=r'expected \(B, 3, 8, 8\); set the'):
        check_images(torch.zeros(shape), 8)
