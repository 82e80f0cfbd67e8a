# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""A neck without weights: pool the patches of any backbone to N tokens."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..registry import MODELS
from ..weights.load_frozen import local_path
from ..weights.read import open_tensors


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
        num_constant_tokens: Tokens of zeros before all others. With
            ``slot_scale`` the projection maps each to an embedding of its
            own, which does not depend on the image: a trained prompt.
        slot_scale: Appends one channel for each token, which has this value
            in its own token and 0 in the others. A linear projection then
            learns a bias for each token, with this factor in its learning
            rate under Adam. None appends nothing.
        mean: A file with the tensor ``mean``, ``(C,)``, which is subtracted
            from all patches and the class token; None subtracts nothing.
        in_channels: Width of the backbone's tokens.
        grid_size: Rows and columns of its patches.
        num_prefix_tokens: Class tokens before the patches, 0 or 1.

    Raises:
        FileNotFoundError: The file of the mean does not exist.
        ValueError: The grid is finer than the patches, or the file has no
            mean of this width.
    """

    def __init__(
        self,
        grid: int | None = None,
        keep_global: bool = False,
        num_constant_tokens: int = 0,
        slot_scale: float | None = None,
        mean: str | None = None,
        *,
        in_channels: int,
        grid_size: Sequence[int],
        num_prefix_tokens: int = 0,
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
        self.num_constant_tokens = num_constant_tokens
        self.slot_scale = slot_scale
        self.grid_size = (height, width)
        self.num_prefix_tokens = num_prefix_tokens
        self.settings = dict(
            grid=grid,
            keep_global=keep_global,
            num_constant_tokens=num_constant_tokens,
            slot_scale=slot_scale,
        )
        patches = height * width if grid is None else grid * grid
        self.num_tokens = num_constant_tokens + keep_global + patches
        self.out_channels = in_channels
        if slot_scale is not None:
            self.out_channels += self.num_tokens
        self.mean: Tensor | None
        self.register_buffer(
            'mean', None if mean is None else _read_mean(mean, in_channels)
        )
        self.frozen = True

    def forward(self, features: Tensor) -> Tensor:
        """Pool the tokens of a backbone.

        Args:
            features: ``(B, num_prefix_tokens + h * w, C)``, any float.

        Returns:
            ``(B, num_tokens, out_channels)`` fp32.
        """
        features = features.float()
        if self.mean is not None:
            features = features - self.mean
        tokens = self._pool(features)
        if self.num_constant_tokens:
            tokens = F.pad(tokens, (0, 0, self.num_constant_tokens, 0))
        if self.slot_scale is None:
            return tokens
        scale = tokens.new_full((self.num_tokens,), self.slot_scale)
        slots = torch.diag(scale)
        return torch.cat((tokens, slots.expand(len(tokens), -1, -1)), dim=2)

    def _pool(self, features: Tensor) -> Tensor:
        """The tokens that depend on the image."""
        patches = features[:, self.num_prefix_tokens :]
        tokens = patches
        if self.grid is not None:
            grid_map = patches.transpose(1, 2).unflatten(2, self.grid_size)
            pooled = F.adaptive_avg_pool2d(grid_map, self.grid)
            tokens = pooled.flatten(2).transpose(1, 2)
        if not self.keep_global:
            return tokens
        whole = (
            features[:, :1]
            if self.num_prefix_tokens
            else patches.mean(1, keepdim=True)
        )
        return torch.cat((whole, tokens), dim=1)


def _read_mean(source: str, width: int) -> Tensor:
    """Read the mean of the features from a file.

    Args:
        source: The file.
        width: Width of the features.

    Returns:
        ``(width,)`` fp32; empty under ``torch.device('meta')``.
    """
    if torch.get_default_device().type == 'meta':
        return torch.empty(width)
    path = local_path(source, 'neck.mean')
    tensors = open_tensors(source if path is None else path)
    found = tensors.get('mean')
    if found is None or found.shape != (width,):
        shape = 'none' if found is None else str(found.shape)
        raise ValueError(
            f'{source} has as tensor mean {shape}; expected the mean of the '
            f'features of the backbone, ({width},).'
        )
    return found.read().float().to(torch.get_default_device())
