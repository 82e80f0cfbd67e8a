# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""LLaMA's forward pass over KV slots, in few operations.

For one new token transformers' modules spend nearly all the time of a small
LLM, and much of a large one's on a fast GPU, in Python. This pass uses the
same weight tensors and a third of the operations. It runs plain LLaMA only;
every other LLM runs through transformers.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .kv_cache import KVCache, LayerView

_LINEARS = (
    'self_attn.q_proj',
    'self_attn.k_proj',
    'self_attn.v_proj',
    'self_attn.o_proj',
    'mlp.gate_proj',
    'mlp.up_proj',
    'mlp.down_proj',
)
# rotary embeddings that depend on the position, not on the text's length
_ROPE_TYPES = ('default', 'linear', 'llama3', 'yarn')


class _LayerWeights(NamedTuple):
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


def is_plain_llama(llm: Any) -> bool:
    """Whether :class:`FastLlama` computes the same as an LLM's own modules.

    Not with adapters, quantised or sharded weights, biases, or hooks on its
    modules.
    """
    config = llm.config
    if (
        config.model_type != 'llama'
        or config.hidden_act != 'silu'
        or getattr(config, 'pretraining_tp', 1) != 1
        or llm.base_model.rotary_emb.rope_type not in _ROPE_TYPES
    ):
        return False
    layers = llm.base_model.layers
    linears = [x.get_submodule(n) for x in layers for n in _LINEARS]
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


class FastLlama:
    """The forward pass of one LLM.

    Args:
        llm: A LLaMA of transformers, which shares its weights.
        compile: Whether to compile the pass of one token.
    """

    def __init__(self, llm: Any, compile: bool = False) -> None:
        model, config = llm.base_model, llm.config
        self._rotary = model.rotary_emb
        self._max_positions = config.max_position_embeddings
        self._rope_table: tuple[Tensor, Tensor] | None = None
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
            _LayerWeights(
                layer.input_layernorm.weight,
                layer.post_attention_layernorm.weight,
                *(layer.get_submodule(n).weight.t() for n in _LINEARS),
            )
            for layer in model.layers
        ]
        self._compiled = torch.compile(self._slots_pass) if compile else None

    def __call__(
        self,
        embeddings: Tensor,
        position_ids: Tensor,
        mask: Tensor,
        positions: Tensor,
        first_slot: int,
        cache: KVCache,
    ) -> Tensor:
        """Return hidden states ``(B, T, hidden_size)``, after the final norm.

        Args:
            embeddings: ``(B, T, hidden_size)``.
            position_ids: ``(B, T)`` int64, positions in the text.
            mask: ``(B, 1, T, visible length)``, added to the scores.
            positions: ``(B, T)`` int64, positions in the slots that K and V
                are written to.
            first_slot: The slot of the first request.
            cache: The KV slots.
        """
        if self._rope_table is None:
            self._rope_table = self._make_rope_table(embeddings)
        if not cache.keys:
            like = embeddings.new_empty(0, self._kv_heads, 0, self._head_width)
            for _ in self._layers:
                cache.add_layer(like, like)
        if self._compiled is not None and positions.shape[1] == 1:
            return self._compiled(
                embeddings,
                position_ids,
                mask,
                positions,
                cache.keys,
                cache.values,
            )
        views = cache.views(first_slot, len(positions), mask.shape[-1])
        return self._pass(embeddings, position_ids, mask, positions, views)

    def _slots_pass(
        self,
        embeddings: Tensor,
        position_ids: Tensor,
        mask: Tensor,
        positions: Tensor,
        keys: list[Tensor],
        values: list[Tensor],
    ) -> Tensor:
        """Run over the first slots of the cache's tensors (for compilation).

        Views as arguments would be compiled for each shape.
        """
        n, length = len(positions), mask.shape[-1]
        views = [
            LayerView(k[:n], v[:n], k[:n, :, :length], v[:n, :, :length])
            for k, v in zip(keys, values, strict=True)
        ]
        return self._pass(embeddings, position_ids, mask, positions, views)

    def _pass(
        self,
        embeddings: Tensor,
        position_ids: Tensor,
        mask: Tensor,
        positions: Tensor,
        views: list[LayerView],
    ) -> Tensor:
        assert self._rope_table is not None
        cos, sin = self._rope_table
        # (B, 1, T, D)
        rope = cos[position_ids][:, None], sin[position_ids][:, None]
        index = positions[:, None, :, None].expand(
            -1, self._kv_heads, -1, self._head_width
        )
        batch, length = positions.shape
        shape = (batch, length, -1, self._head_width)
        hidden = embeddings.reshape(-1, self._width)
        for weights, view in zip(self._layers, views, strict=True):
            hidden = self._layer(
                hidden, weights, shape, rope, mask, index, view
            )
        return self._norm(hidden, self._final_norm).view(embeddings.shape)

    def _layer(
        self,
        hidden: Tensor,
        weights: _LayerWeights,
        shape: tuple[int, ...],
        rope: tuple[Tensor, Tensor],
        mask: Tensor,
        index: Tensor,
        view: LayerView,
    ) -> Tensor:
        normed = self._norm(hidden, weights.norm)
        # Q and K are rotated in one tensor: (B, heads + KV heads, T, D)
        query_key = self._split_heads(
            torch.cat(
                (
                    torch.mm(normed, weights.query),
                    torch.mm(normed, weights.key),
                ),
                dim=1,
            ),
            shape,
        )
        rolled = query_key.roll(self._head_width // 2, -1)
        query_key = query_key.mul_(rope[0]).addcmul_(rolled, rope[1])
        query, key = query_key.split_with_sizes(
            (self._heads, self._kv_heads), 1
        )
        value = self._split_heads(torch.mm(normed, weights.value), shape)
        view.keys.scatter_(2, index, key)
        view.values.scatter_(2, index, value)
        out = F.scaled_dot_product_attention(
            query,
            view.visible_keys,
            view.visible_values,
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
    def _split_heads(x: Tensor, shape: tuple[int, ...]) -> Tensor:
        """``(B * T, heads * D)`` to ``(B, heads, T, D)``."""
        batch, length, _, width = shape
        if length == 1:
            return x.view(batch, -1, 1, width)
        return x.view(shape).transpose(1, 2)

    def _make_rope_table(self, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine, and sine with the sign of the rolled half of a head.

        Each ``(positions, D)``. Rolling a head by half its width swaps its
        halves.
        """
        positions = torch.arange(
            self._max_positions, device=embeddings.device
        )[None]
        cos, sin = self._rotary(embeddings, positions)
        half = self._head_width // 2
        sin = torch.cat((-sin[..., :half], sin[..., half:]), dim=-1)
        return cos[0], sin[0]

    def _norm(self, hidden: Tensor, weight: Tensor) -> Tensor:
        """RMS norm in fp32, rounded where transformers' modules round."""
        # F.rms_norm takes twice as long for one token on a CPU
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
