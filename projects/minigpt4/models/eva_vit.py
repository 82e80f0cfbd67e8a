# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The backbone: EVA-ViT-g/14 of EVA-CLIP, truncated as in BLIP-2."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..registry import MODELS
from ..weights.load_frozen import load_weights, meta_device_if, torch_dtype
from ..weights.position_embeddings import resize_lazily
from ..weights.read import LazyTensor
from .backbone import Normalization, check_images, map_to_tokens
from .frozen_linear import apply_linear
from .vision_fingerprint import quantise_vision_part

ARCHS = {
    # BLIP-2 uses 39 of EVA-CLIP's 40 blocks and no final norm
    'eva-g': dict(width=1408, depth=39, num_heads=16, mlp_width=6144),
    'nano': dict(width=128, depth=4, num_heads=4, mlp_width=512),
}


class Attention(nn.Module):
    """Self-attention; query and value have a bias, the key has none."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, N, C)`` to ``(B, N, C)``."""
        batch, tokens, width = x.shape
        bias = torch.cat(
            (self.q_bias, torch.zeros_like(self.q_bias), self.v_bias)
        )
        qkv = apply_linear(self.qkv, x, bias)
        qkv = qkv.view(batch, tokens, 3, self.num_heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, heads, N, C / heads)
        x = F.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).reshape(batch, tokens, width))


class Mlp(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """``(..., C)`` to ``(..., C)``."""
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int, num_heads: int, mlp_width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, num_heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width, mlp_width)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, N, C)`` to ``(B, N, C)``."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    """Embeds the patches of an image."""

    def __init__(self, width: int, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch_size, stride=patch_size)

    def forward(self, images: Tensor) -> Tensor:
        """``(B, 3, H, W)`` to ``(B, patches, C)``."""
        return map_to_tokens(self.proj(images))


@MODELS.register_module()
class EVAViT(nn.Module):
    """EVA-ViT: ``(B, 3, 224, 224)`` images to ``(B, 257, 1408)`` features.

    Parameter names are those of ``eva_vit_g.pth``. That file loads without
    conversion (blocks beyond the 39th, the final norm and the head are not
    used), and so do the other layouts of :mod:`~minigpt4.weights.layouts`.

    Args:
        arch: ``'eva-g'``, ``'nano'``, or a dict with ``width``, ``depth``,
            ``num_heads`` and ``mlp_width``.
        img_size: Side of the square input in pixels. The position embeddings
            of a checkpoint for another size are interpolated.
        patch_size: Side of a patch in pixels.
        checkpoint: File, folder, URL or ``'nano/...'`` of the weights; None
            leaves them random.
        dtype: ``'auto'`` (bf16 or fp16 on a GPU, fp32 on a CPU) or the name
            of a floating-point type.
        frozen: Whether the weights are not trained; then no graph is built
            and the module stays in eval mode.
        linear_dtype: ``'int8'`` or ``'float8'`` for linear layers that
            multiply in 8 bits; see :mod:`~.frozen_linear`. None is ``dtype``.

    Source: BLIP-2 / MiniGPT-4 ``models/eva_vit.py`` @ d94738a; paper section
    3. Attention runs through ``scaled_dot_product_attention``. LayerNorms
    are in ``dtype`` too (the original has fp32 weights there).
    """

    name = 'EVAViT'
    num_class_tokens = 1
    normalization: Normalization | None = None

    def __init__(
        self,
        arch: str | dict = 'eva-g',
        img_size: int = 224,
        patch_size: int = 14,
        checkpoint: str | None = None,
        dtype: str = 'auto',
        frozen: bool = True,
        linear_dtype: str | None = None,
    ) -> None:
        super().__init__()
        if isinstance(arch, str):
            if arch not in ARCHS:
                raise ValueError(
                    f'unknown EVAViT arch {arch!r}; expected one '
                    f'of {", ".join(ARCHS)} or a dict.'
                )
            arch = ARCHS[arch]
        if img_size % patch_size:
            raise ValueError(
                f'EVAViT has img_size={img_size}, which is no multiple of the '
                f'{patch_size} pixels of a patch; give a multiple.'
            )
        self.out_channels = width = arch['width']
        self.img_size = img_size
        self.frozen = frozen
        side = img_size // patch_size
        self.grid_size = (side, side)
        with meta_device_if(checkpoint):
            self.patch_embed = PatchEmbed(width, patch_size)
            self.cls_token = nn.Parameter(torch.empty(1, 1, width))
            self.pos_embed = nn.Parameter(
                torch.empty(1, side * side + 1, width)
            )
            self.blocks = nn.ModuleList(
                Block(width, arch['num_heads'], arch['mlp_width'])
                for _ in range(arch['depth'])
            )
        # a trained backbone has fp32 weights: AMP casts them when needed
        weights_dtype = torch_dtype(dtype) if frozen else torch.float32
        if checkpoint is None:
            nn.init.trunc_normal_(self.cls_token, std=0.02)
            nn.init.trunc_normal_(self.pos_embed, std=0.02)
        else:
            load_weights(
                self,
                'backbone',
                checkpoint,
                weights_dtype,
                self.weight_adapters(),
            )
        self.to(weights_dtype)
        self.requires_grad_(not frozen)
        quantise_vision_part(self, linear_dtype, 'backbone')
        self.train()

    def weight_adapters(self) -> dict[str, Callable[[LazyTensor], LazyTensor]]:
        """Functions that adapt tensors of a file to this image size."""
        resize = functools.partial(
            resize_lazily,
            grid_size=self.grid_size,
            num_class_tokens=self.num_class_tokens,
        )
        return dict(pos_embed=resize)

    def train(self, mode: bool = True) -> 'EVAViT':
        """Set the mode; a frozen backbone stays in eval mode."""
        return super().train(mode and not self.frozen)

    def compile_layers(self, backend: str = 'inductor') -> None:
        """Compile the blocks, which share one compiled code."""
        for block in self.blocks:
            block.compile(backend=backend)

    def forward(self, images: Tensor) -> Tensor:
        """Encode images.

        Args:
            images: ``(B, 3, img_size, img_size)``, normalised, any float.

        Returns:
            ``(B, 1 + patches, width)`` in the module's dtype, the class
            token first; without final norm (``ln_vision`` is in the neck).

        Raises:
            ValueError: The images have another size.
        """
        check_images(images, self.img_size)
        x = self.patch_embed(images.to(self.cls_token.dtype))
        x = torch.cat((self.cls_token.expand(len(x), -1, -1), x), dim=1)
        x = x + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return x
