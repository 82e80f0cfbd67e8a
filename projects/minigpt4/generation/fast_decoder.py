# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The forward pass of LLaMA and its relatives over KV slots.

For one new token transformers' modules spend nearly all the time of a small
LLM, and much of a large one's on a fast GPU, in Python. This pass uses the
same weight tensors and a third of the operations. It runs the families of
:data:`~minigpt4.llm.families.LAYER_CLASSES`: LLaMA with grouped-query
attention or not, and with Mistral's head width, Qwen2's biases or Qwen3's
norms. Every other LLM runs through transformers.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..llm.families import LAYER_CLASSES, family_difference
from .kv_cache import KVCache, LayerView

_WITH_BIAS = ('self_attn.q_proj', 'self_attn.k_proj', 'self_attn.v_proj')
_WITHOUT_BIAS = (
    'self_attn.o_proj',
    'mlp.gate_proj',
    'mlp.up_proj',
    'mlp.down_proj',
)
# rotary embeddings that depend on the position, not on the text's length
_ROPE_TYPES = ('default', 'linear', 'llama3', 'yarn')


class _LayerWeights(NamedTuple):
    """Weights of a layer, matrices transposed; None where it has none.

    ``query_key_norm`` is ``(heads + KV heads, D)``.
    """

    norm: Tensor
    mlp_norm: Tensor
    query: Tensor
    key: Tensor
    value: Tensor
    query_bias: Tensor | None
    key_bias: Tensor | None
    value_bias: Tensor | None
    query_key_norm: Tensor | None
    out: Tensor
    gate: Tensor
    up: Tensor
    down: Tensor


def fast_decoder_difference(llm: Any) -> str | None:
    """Why :class:`FastDecoder` cannot run an LLM, or None if it can.

    It cannot with another architecture, adapters, quantised or sharded
    weights, other biases, or hooks on the modules.

    Returns:
        A clause for messages, e.g. ``'its architecture is gpt2'``.
    """
    config = llm.config
    difference = family_difference(config)
    if difference is not None:
        return difference
    if config.hidden_act != 'silu':
        return f'its activation is {config.hidden_act}'
    rope_type = llm.base_model.rotary_emb.rope_type
    if rope_type not in _ROPE_TYPES:
        return f'its rotary embedding is of type {rope_type}'
    if getattr(config, 'pretraining_tp', 1) != 1:
        return f'its pretraining_tp is {config.pretraining_tp}'
    layers = llm.base_model.layers
    classes = {type(layer).__name__ for layer in layers}
    if classes != {LAYER_CLASSES[config.model_type]}:
        return f'its layers are {", ".join(sorted(classes))}'
    for layer in layers:
        for name in (*_WITH_BIAS, *_WITHOUT_BIAS):
            linear = layer.get_submodule(name)
            if hasattr(linear, 'lora_A'):  # a Linear of peft
                return f'its {name} has LoRA that is not merged'
            if type(linear) is not nn.Linear:
                return f'its {name} is a {type(linear).__name__}'
            if name in _WITHOUT_BIAS and linear.bias is not None:
                return f'its {name} has a bias'
    if any(
        hasattr(module, '_hf_hook')
        or module._forward_hooks
        or module._forward_pre_hooks
        for module in llm.base_model.modules()
    ):
        return 'its modules have hooks, as on several devices'
    return None


class FastDecoder:
    """The forward pass of one LLM.

    Args:
        llm: An LLM of transformers without
            :func:`fast_decoder_difference`, which shares its weights.
        compile: Whether to compile the pass of one token.

    Attributes:
        takes_lengths: Whether a pass of one token may get lengths instead of
            a mask: on a CPU, if it is not compiled.
    """

    def __init__(self, llm: Any, compile: bool = False) -> None:
        model, config = llm.base_model, llm.config
        self.takes_lengths = (
            not compile and model.norm.weight.device.type == 'cpu'
        )
        self._rotary = model.rotary_emb
        # cosine and sine for each position of a slot, see _make_rope_table
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
        self._layers = [self._layer_weights(layer) for layer in model.layers]
        self._compiled = torch.compile(self._slots_pass) if compile else None

    def _layer_weights(self, layer: Any) -> _LayerWeights:
        attention = layer.self_attn
        query_key_norm = None
        if hasattr(attention, 'q_norm'):
            query_key_norm = torch.cat(
                (
                    attention.q_norm.weight.expand(self._heads, -1),
                    attention.k_norm.weight.expand(self._kv_heads, -1),
                )
            )
        mlp = layer.mlp
        return _LayerWeights(
            norm=layer.input_layernorm.weight,
            mlp_norm=layer.post_attention_layernorm.weight,
            query=attention.q_proj.weight.t(),
            key=attention.k_proj.weight.t(),
            value=attention.v_proj.weight.t(),
            query_bias=attention.q_proj.bias,
            key_bias=attention.k_proj.bias,
            value_bias=attention.v_proj.bias,
            query_key_norm=query_key_norm,
            out=attention.o_proj.weight.t(),
            gate=mlp.gate_proj.weight.t(),
            up=mlp.up_proj.weight.t(),
            down=mlp.down_proj.weight.t(),
        )

    def __call__(
        self,
        embeddings: Tensor,
        position_ids: Tensor,
        visible: 'Tensor | Sequence[int]',
        positions: Tensor,
        first_slot: int,
        cache: KVCache,
    ) -> Tensor:
        """Return hidden states ``(B, T, hidden_size)``, after the final norm.

        Args:
            embeddings: ``(B, T, hidden_size)``.
            position_ids: ``(B, T)`` int64, positions in the text.
            visible: A mask ``(B, 1, T, visible length)``, added to the
                scores; or, in a pass of one token, the number of positions
                that each request attends to (see ``takes_lengths``), and no
                request computes the positions of a longer one.
            positions: ``(B, T)`` int64, positions in the slots that K and V
                are written to.
            first_slot: The slot of the first request.
            cache: The KV slots.
        """
        if (
            self._rope_table is None
            or len(self._rope_table[0]) < cache.capacity
        ):
            self._rope_table = self._make_rope_table(
                embeddings, cache.capacity
            )
        if not cache.keys:
            like = embeddings.new_empty(0, self._kv_heads, 0, self._head_width)
            for _ in self._layers:
                cache.add_layer(like, like)
        if not isinstance(visible, Tensor):
            views = cache.views(first_slot, len(positions), cache.capacity)
            return self._pass(
                embeddings, position_ids, visible, positions, views
            )
        if self._compiled is not None and positions.shape[1] == 1:
            return self._compiled(
                embeddings,
                position_ids,
                visible,
                positions,
                cache.keys,
                cache.values,
            )
        views = cache.views(first_slot, len(positions), visible.shape[-1])
        return self._pass(embeddings, position_ids, visible, positions, views)

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
        visible: 'Tensor | Sequence[int]',
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
                hidden, weights, shape, rope, visible, index, view
            )
        return self._norm(hidden, self._final_norm).view(embeddings.shape)

    def _layer(
        self,
        hidden: Tensor,
        weights: _LayerWeights,
        shape: tuple[int, ...],
        rope: tuple[Tensor, Tensor],
        visible: 'Tensor | Sequence[int]',
        index: Tensor,
        view: LayerView,
    ) -> Tensor:
        normed = self._norm(hidden, weights.norm)
        # Q and K are rotated in one tensor: (B, heads + KV heads, T, D)
        query_key = self._split_heads(
            torch.cat(
                (
                    _project(normed, weights.query, weights.query_bias),
                    _project(normed, weights.key, weights.key_bias),
                ),
                dim=1,
            ),
            shape,
            weights.query_key_norm,
        )
        rolled = query_key.roll(self._head_width // 2, -1)
        query_key = query_key.mul_(rope[0]).addcmul_(rolled, rope[1])
        query, key = query_key.split_with_sizes(
            (self._heads, self._kv_heads), 1
        )
        value = self._split_heads(
            _project(normed, weights.value, weights.value_bias), shape
        )
        view.keys.scatter_(2, index, key)
        view.values.scatter_(2, index, value)
        if isinstance(visible, Tensor):
            out = self._attend(
                query, view.visible_keys, view.visible_values, visible
            )
        else:
            out = torch.cat(
                [
                    self._attend(
                        query[i : i + 1],
                        view.keys[i : i + 1, :, :length],
                        view.values[i : i + 1, :, :length],
                    )
                    for i, length in enumerate(visible)
                ]
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

    def _attend(
        self,
        query: Tensor,
        keys: Tensor,
        values: Tensor,
        mask: Tensor | None = None,
    ) -> Tensor:
        return F.scaled_dot_product_attention(
            query,
            keys,
            values,
            attn_mask=mask,
            scale=self._scale,
            enable_gqa=self._heads != self._kv_heads,
        )

    def _split_heads(
        self, x: Tensor, shape: tuple[int, ...], norm: Tensor | None = None
    ) -> Tensor:
        """``(B * T, heads * D)`` to ``(B, heads, T, D)``.

        Args:
            x: The heads.
            shape: ``(B, T, -1, D)``.
            norm: ``(heads, D)``, the weight of a norm of each head.
        """
        batch, length, _, width = shape
        if norm is not None:
            x = self._norm(x.view(-1, *norm.shape), norm)
        if length == 1:
            return x.view(batch, -1, 1, width)
        return x.view(shape).transpose(1, 2)

    def _make_rope_table(
        self, embeddings: Tensor, length: int
    ) -> tuple[Tensor, Tensor]:
        """Cosine, and sine with the sign of the rolled half of a head.

        Each ``(length, D)``. Rolling a head by half its width swaps its
        halves. The table grows with the slots: a table of all positions of a
        long context would take more memory than a small LLM's KV cache.
        """
        positions = torch.arange(length, device=embeddings.device)[None]
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
            self._epsilon, length, length, value=1 / weight.shape[-1]
        ).rsqrt_()
        normed = hidden * scale
        if normed.dtype != weight.dtype:
            normed = normed.to(weight.dtype)
        return normed.mul_(weight)


def _project(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``x @ weight + bias``."""
    if bias is None:
        return torch.mm(x, weight)
    return torch.addmm(bias, x, weight)
