# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The necks: BLIP-2's Q-Former, the patch merge, and cached queries."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..registry import MODELS
from ..weights.load_frozen import load_weights, meta_device_if, torch_dtype
from .vision_fingerprint import quantise_vision_part


class Attention(nn.Module):
    """Multi-head attention, then BERT's residual and norm."""

    def __init__(
        self, width: int, num_heads: int, context_width: int, dropout: float
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(context_width, width)
        self.value = nn.Linear(context_width, width)
        self.out = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.dropout = dropout

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """``(B, Q, C)`` attends to ``(B, N, C')``; returns ``(B, Q, C)``."""

        def heads(t: Tensor) -> Tensor:
            return t.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(
            heads(self.query(x)),
            heads(self.key(context)),
            heads(self.value(context)),
            dropout_p=dropout,
        )
        y = self.out(y.transpose(1, 2).flatten(2))
        return self.norm(x + F.dropout(y, dropout, self.training))


class Mlp(nn.Module):
    """BERT's feed-forward, then its residual and norm."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """``(B, Q, C)`` to ``(B, Q, C)``."""
        y = self.fc2(F.gelu(self.fc1(x)))
        return self.norm(x + F.dropout(y, self.dropout, self.training))


class Layer(nn.Module):
    """Self-attention of the queries; cross-attention in every other layer."""

    def __init__(
        self,
        width: int,
        num_heads: int,
        mlp_width: int,
        context_width: int | None,
        dropout: float,
    ) -> None:
        super().__init__()
        self.attention = Attention(width, num_heads, width, dropout)
        self.cross_attention = (
            Attention(width, num_heads, context_width, dropout)
            if context_width is not None
            else None
        )
        self.mlp = Mlp(width, mlp_width, dropout)

    def forward(self, x: Tensor, image: Tensor) -> Tensor:
        """``(B, Q, C)`` and ``(B, N, C')`` to ``(B, Q, C)``."""
        x = self.attention(x, x)
        if self.cross_attention is not None:
            x = self.cross_attention(x, image)
        return self.mlp(x)


@MODELS.register_module()
class QFormer(nn.Module):
    """The Q-Former: ``(B, 257, 1408)`` features to ``(B, 32, 768)`` queries.

    Only the query path is built: in MiniGPT-4 the Q-Former has no text input.

    Args:
        in_channels: Width of the image features; in a model, that of the
            backbone.
        num_queries: Queries of one image, which become image tokens.
        width: Width of the queries.
        depth: Layers; every ``cross_every``-th has cross-attention.
        num_heads: Attention heads.
        mlp_width: Width of the feed-forward.
        cross_every: Distance of the layers with cross-attention.
        dropout: Dropout while it is trained (ablation c of the paper).
        checkpoint: File, folder, URL or ``'nano/...'`` of the weights, in any
            layout of :mod:`~minigpt4.weights.layouts`; None leaves them
            random.
        dtype: Type of the frozen weights.
        frozen: Whether the weights are not trained; then no graph is built
            and there is no dropout.
        linear_dtype: ``'int8'`` or ``'float8'`` for linear layers that
            multiply in 8 bits; see :mod:`~.frozen_linear`. None is ``dtype``.

    Source: LAVIS / MiniGPT-4 ``models/Qformer.py`` and ``ln_vision`` of
    ``models/base_model.py`` @ d94738a; paper section 3.
    """

    def __init__(
        self,
        in_channels: int = 1408,
        num_queries: int = 32,
        width: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_width: int = 3072,
        cross_every: int = 2,
        dropout: float = 0.1,
        checkpoint: str | None = None,
        dtype: str = 'float32',
        frozen: bool = True,
        linear_dtype: str | None = None,
    ) -> None:
        super().__init__()
        self.num_tokens = num_queries
        self.out_channels = width
        self.frozen = frozen
        self.dropout = dropout
        with meta_device_if(checkpoint):
            self.query_tokens = nn.Parameter(
                torch.empty(1, num_queries, width)
            )
            # torch's eps, as in LAVIS; transformers' BLIP-2 has 1e-6
            self.ln_vision = nn.LayerNorm(in_channels, eps=1e-5)
            self.norm = nn.LayerNorm(width, eps=1e-12)
            self.layers = nn.ModuleList(
                Layer(
                    width,
                    num_heads,
                    mlp_width,
                    in_channels if i % cross_every == 0 else None,
                    dropout,
                )
                for i in range(depth)
            )
        weights_dtype = torch_dtype(dtype) if frozen else torch.float32
        if checkpoint is None:
            nn.init.normal_(self.query_tokens, std=0.02)
        else:
            load_weights(self, 'neck', checkpoint, weights_dtype)
        self.to(weights_dtype)
        self.requires_grad_(not frozen)
        quantise_vision_part(self, linear_dtype, 'neck')
        self.train()

    def train(self, mode: bool = True) -> 'QFormer':
        """Set the mode; a frozen neck stays in eval mode."""
        return super().train(mode and not self.frozen)

    def forward(self, features: Tensor) -> Tensor:
        """Reduce image features to queries.

        Args:
            features: ``(B, N, in_channels)``, any float, not normalised.

        Returns:
            ``(B, num_queries, width)`` in the module's dtype.
        """
        dtype = self.query_tokens.dtype
        image = self.ln_vision(features.to(self.ln_vision.weight.dtype))
        x = self.norm(self.query_tokens).expand(len(image), -1, -1)
        x = F.dropout(x, self.dropout, self.training)
        for layer in self.layers:
            x = layer(x, image.to(dtype))
        return x


@MODELS.register_module()
class PatchMerge(nn.Module):
    """A neck without Q-Former: four neighbouring patches become one token.

    ``(B, 257, 1408)`` features to ``(B, 64, 5632)``: the class token is
    dropped, four patches in raster order are concatenated. It has no weights
    to load: ``ln_vision`` has its initial values, as in the released LLaMA-2
    model.

    Args:
        in_channels: Width of the image features.
        num_patches: Patches of an image, without the class token.
        merge: Patches in one token.
        num_class_tokens: Class tokens before the patches, which are dropped.

    In a model, width and numbers are those of the backbone.

    Raises:
        ValueError: ``merge`` does not divide the number of patches.

    Source: MiniGPT-4 ``models/minigpt4.py`` @ d94738a; paper section 4.4 (a).
    """

    def __init__(
        self,
        in_channels: int = 1408,
        num_patches: int = 256,
        merge: int = 4,
        num_class_tokens: int = 1,
    ) -> None:
        super().__init__()
        if num_patches % merge:
            raise ValueError(
                f'PatchMerge has merge={merge}, which does not divide the '
                f'{num_patches} patches of the backbone; give another merge, '
                'or the neck PatchTokens.'
            )
        self.num_class_tokens = num_class_tokens
        self.settings = dict(merge=merge)
        self.num_tokens = num_patches // merge
        self.out_channels = in_channels * merge
        self.frozen = True
        self.ln_vision = nn.LayerNorm(in_channels, eps=1e-5)
        self.requires_grad_(False)

    def forward(self, features: Tensor) -> Tensor:
        """``(B, 1 + patches, C)`` to ``(B, num_tokens, merge * C)``."""
        x = self.ln_vision(features.to(self.ln_vision.weight.dtype))
        x = x[:, self.num_class_tokens :]
        return x.reshape(len(x), self.num_tokens, self.out_channels)


@MODELS.register_module()
class CachedQueries(nn.Module):
    """The neck of a model whose queries come from a feature cache.

    Args:
        num_tokens: Queries of one image.
        channels: Their width.
        vision_fingerprint: That of the vision parts that made the queries, see
            :mod:`~.vision_fingerprint`; None if the cache has none.
    """

    def __init__(
        self,
        num_tokens: int,
        channels: int,
        vision_fingerprint: dict | None = None,
    ) -> None:
        super().__init__()
        self.vision_fingerprint = vision_fingerprint
        self.num_tokens = num_tokens
        self.out_channels = channels
        self.frozen = True

    def forward(self, queries: Tensor) -> Tensor:
        """Return ``(B, num_tokens, channels)`` unchanged."""
        return queries
