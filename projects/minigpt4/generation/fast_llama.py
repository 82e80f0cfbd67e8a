# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""LLaMA's forward pass over slots, in as few operations as it takes.

For one new token transformers' modules spend nearly all time of a small LLM,
and much of a large one's on a fast GPU, in Python. This pass reads the same
weights, where they are, and does a third of the operations. It is for plain
LLaMA alone; every other LLM goes through transformers.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .kv_cache import KVCache, View

_LINEARS = (
    'self_attn.q_proj',
    'self_attn.k_proj',
    'self_attn.v_proj',
    'self_attn.o_proj',
    'mlp.gate_proj',
    'mlp.up_proj',
    'mlp.down_proj',
)
# those that depend on the place alone, not on the length of the text
_ROTATIONS = ('default', 'linear', 'llama3', 'yarn')


class _Layer(NamedTuple):
    """Weights of a layer, matrices transposed."""

    norm: Tensor
    mlp_norm: Tensor
    query: Tensor
    key: Tensor
    value: Tensor
    out: Tensor
    gate: Tensor
    up: Tensor
    down: Tensor


def is_plain_llama(llm) -> bool:
    """Whether the pass knows all there is in an LLM.

    Not with adapters, quantised or shared weights, biases, or hooks that
    look at what passes or move it.
    """
    config = llm.config
    if (
        config.model_type != 'llama'
        or config.hidden_act != 'silu'
        or getattr(config, 'pretraining_tp', 1) != 1
        or llm.base_model.rotary_emb.rope_type not in _ROTATIONS
    ):
        return False
    layers = llm.base_model.layers
    linears = [x.get_submodule(name) for x in layers for name in _LINEARS]
    return (
        {type(layer).__name__ for layer in layers} == {'LlamaDecoderLayer'}
        and all(type(x) is nn.Linear and x.bias is None for x in linears)
        and not any(
            hasattr(module, '_hf_hook')
            or module._forward_hooks
            or module._forward_pre_hooks
            for module in llm.base_model.modules()
        )
    )


class LlamaPass:
    """The pass of one LLM.

    Args:
        llm: A LLaMA of transformers; its weights are used where they are.
        compile: Whether to compile the pass of one token.
    """

    def __init__(self, llm, compile: bool = False) -> None:
        model, config = llm.base_model, llm.config
        self._rotary = model.rotary_emb
        self._places = config.max_position_embeddings
        self._table: tuple[Tensor, Tensor] | None = None
        self._final_norm = model.norm.weight
        self._epsilon = torch.tensor(
            config.rms_norm_eps, device=model.norm.weight.device
        )
        self._heads = config.num_attention_heads
        self._kv_heads = config.num_key_value_heads
        self._width = config.hidden_size
        attention = model.layers[0].self_attn
        self._scale = attention.scaling
        self._head_width = attention.head_dim
        self._layers = [
            _Layer(
                layer.input_layernorm.weight,
                layer.post_attention_layernorm.weight,
                *(layer.get_submodule(n).weight.t() for n in _LINEARS),
            )
            for layer in model.layers
        ]
        self._compiled = torch.compile(self._whole) if compile else None

    def __call__(
        self,
        embeddings: Tensor,
        positions: Tensor,
        mask: Tensor,
        places: Tensor,
        first: int,
        cache: KVCache,
    ) -> Tensor:
        """Hidden states ``(rows, T, hidden_size)``, normed.

        Args:
            embeddings: ``(rows, T, hidden_size)``.
            positions: ``(rows, T)`` int64.
            mask: ``(rows, 1, T, used)``, added to the scores.
            places: ``(rows, T)`` int64 places that are written to.
            first: The slot of the first row.
            cache: Keys and values.
        """
        if self._table is None:
            self._table = self._rotation(embeddings)
        if not cache.keys:
            like = embeddings.new_empty(0, self._kv_heads, 0, self._head_width)
            for _ in self._layers:
                cache.add_layer(like, like)
        if self._compiled is not None and positions.shape[1] == 1:
            return self._compiled(
                embeddings, positions, mask, places, cache.keys, cache.values
            )
        views = cache.views(first, len(positions), mask.shape[-1])
        return self._pass(embeddings, positions, mask, places, views)

    def _whole(
        self,
        embeddings: Tensor,
        positions: Tensor,
        mask: Tensor,
        places: Tensor,
        keys: list[Tensor],
        values: list[Tensor],
    ) -> Tensor:
        """The pass over the first slots, from whole tensors (to compile)."""
        rows, used = len(positions), mask.shape[-1]
        views = [
            View(k[:rows], v[:rows], k[:rows, :, :used], v[:rows, :, :used])
            for k, v in zip(keys, values, strict=True)
        ]
        return self._pass(embeddings, positions, mask, places, views)

    def _pass(
        self,
        embeddings: Tensor,
        positions: Tensor,
        mask: Tensor,
        places: Tensor,
        views: list[View],
    ) -> Tensor:
        assert self._table is not None
        cos, sin = self._table
        # (rows, 1, T, D)
        rotation = cos[positions][:, None], sin[positions][:, None]
        index = places[:, None, :, None].expand(
            -1, self._kv_heads, -1, self._head_width
        )
        rows, length = positions.shape
        shape = (rows, length, -1, self._head_width)
        hidden = embeddings.reshape(-1, self._width)
        for weights, view in zip(self._layers, views, strict=True):
            hidden = self._layer(
                hidden, weights, shape, rotation, mask, index, view
            )
        return self._norm(hidden, self._final_norm).view(embeddings.shape)

    def _layer(
        self,
        hidden: Tensor,
        weights: _Layer,
        shape: tuple[int, ...],
        rotation: tuple[Tensor, Tensor],
        mask: Tensor,
        index: Tensor,
        view: View,
    ) -> Tensor:
        normed = self._norm(hidden, weights.norm)
        # heads and KV heads turn at once: (rows, both, T, D)
        both = self._by_heads(
            torch.cat(
                (
                    torch.mm(normed, weights.query),
                    torch.mm(normed, weights.key),
                ),
                dim=1,
            ),
            shape,
        )
        turned = both.roll(self._head_width // 2, -1)
        both = both.mul_(rotation[0]).addcmul_(turned, rotation[1])
        query, key = both.split_with_sizes((self._heads, self._kv_heads), 1)
        value = self._by_heads(torch.mm(normed, weights.value), shape)
        view.keys.scatter_(2, index, key)
        view.values.scatter_(2, index, value)
        out = F.scaled_dot_product_attention(
            query,
            view.keys_seen,
            view.values_seen,
            attn_mask=mask,
            scale=self._scale,
            enable_gqa=self._heads != self._kv_heads,
        )
        if shape[1] > 1:
            out = out.transpose(1, 2)
        out = out.reshape(shape[0] * shape[1], -1)
        hidden = torch.addmm(hidden, out, weights.out)
        normed = self._norm(hidden, weights.mlp_norm)
        gate = F.silu(torch.mm(normed, weights.gate), inplace=True)
        return torch.addmm(
            hidden, gate.mul_(torch.mm(normed, weights.up)), weights.down
        )

    @staticmethod
    def _by_heads(x: Tensor, shape: tuple[int, ...]) -> Tensor:
        """``(rows * T, heads * D)`` as ``(rows, heads, T, D)``."""
        rows, length, _, width = shape
        if length == 1:
            return x.view(rows, -1, 1, width)
        return x.view(shape).transpose(1, 2)

    def _rotation(self, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine, and sine with the sign of what half a head brings.

        Each ``(places, D)``. Turned by half a head, the two halves of a head
        change places.
        """
        places = torch.arange(self._places, device=embeddings.device)[None]
        cos, sin = self._rotary(embeddings, places)
        half = self._head_width // 2
        sin = torch.cat((-sin[..., :half], sin[..., half:]), dim=-1)
        return cos[0], sin[0]

    def _norm(self, hidden: Tensor, weight: Tensor) -> Tensor:
        """RMS norm, in fp32, rounded where transformers' modules round."""
        # F.rms_norm takes twice as long for a row on a CPU
        length = torch.linalg.vector_norm(
            hidden, dim=-1, keepdim=True, dtype=torch.float32
        )
        scale = torch.addcmul(
            self._epsilon, length, length, value=1 / self._width
        ).rsqrt_()
        normed = hidden * scale
        if normed.dtype != weight.dtype:
            normed = normed.to(weight.dtype)
        return normed.mul_(weight)
