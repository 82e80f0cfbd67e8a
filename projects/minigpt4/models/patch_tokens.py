# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""A neck without weights: pool the patches of any backbone to N tokens."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..registry import MODELS


@MODELS.register_module()
class PatchTokens(nn.Module):
    """Pools the patches to ``grid * grid`` tokens, in raster order.

    Widths and sizes that the config does not set are those of the backbone;
    see :func:`~.vision.build_vision`.

    Args:
        grid: Rows and columns of the pooled tokens; each is the mean of the
            patches in its part of the image, and parts overlap by a patch
            where ``grid`` does not divide their number. None keeps all
            patches.
        keep_global: Whether a token of the whole image comes first: the class
            token of the backbone, or the mean of its patches if it has none.
        with_mean: Whether the mean of all ``grid * grid`` tokens follows the
            channels of each, which doubles the width: each token then shows
            its part and the whole image.
        in_channels: Width of the backbone's tokens.
        grid_size: Rows and columns of its patches.
        num_class_tokens: Class tokens before the patches, 0 or 1.
    """

    def __init__(
        self,
        grid: int | None = None,
        keep_global: bool = False,
        with_mean: bool = False,
        *,
        in_channels: int,
        grid_size: Sequence[int],
        num_class_tokens: int = 0,
    ) -> None:
        super().__init__()
        height, width = grid_size
        if grid is not None and not 1 <= grid <= min(height, width):
            raise ValueError(
                f'PatchTokens has grid={grid}, but the backbone has {height} '
                f'x {width} patches; give a grid from 1 to '
                f'{min(height, width)}, or None to keep all patches.'
            )
        self.grid = grid
        self.keep_global = keep_global
        self.with_mean = with_mean
        self.grid_size = (height, width)
        self.num_class_tokens = num_class_tokens
        self.settings = dict(
            grid=grid, keep_global=keep_global, with_mean=with_mean
        )
        patches = height * width if grid is None else grid * grid
        self.num_tokens = patches + keep_global
        self.out_channels = in_channels * (1 + with_mean)
        self.frozen = True

    def forward(self, features: Tensor) -> Tensor:
        """Pool the tokens of a backbone.

        Args:
            features: ``(B, num_class_tokens + h * w, C)``, any float.

        Returns:
            ``(B, num_tokens, out_channels)`` fp32.
        """
        features = features.float()
        patches = features[:, self.num_class_tokens :]
        tokens = patches
        if self.grid is not None:
            grid_map = patches.transpose(1, 2).unflatten(2, self.grid_size)
            pooled = F.adaptive_avg_pool2d(grid_map, self.grid)
            tokens = pooled.flatten(2).transpose(1, 2)
        mean = tokens.mean(1, keepdim=True)
        if self.keep_global:
            whole = (
                features[:, :1]
                if self.num_class_tokens
                else patches.mean(1, keepdim=True)
            )
            tokens = torch.cat((whole, tokens), dim=1)
        if self.with_mean:
            tokens = torch.cat((tokens, mean.expand_as(tokens)), dim=2)
        return tokens
