# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Attention of packed sequences, for transformers' LLMs.

A pack holds sequences one after another, so that all matrix products see only
real tokens. Attention needs each sequence by itself: here the sequences are
unpacked, attend, and are packed again, at a cost of the square of a sequence's
length instead of a pack's.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import compat

NAME = 'minigpt4_packed'


@dataclass(eq=False)
class PackedLayout:
    """Where the sequences are located in packs, and their common prefix.

    Not a tuple: compiled layers pass it on without a look into it, and are not
    compiled again for other sizes.

    Attributes:
        unpack_index: ``(S, W)`` int64. For each position of each sequence its
            index in the flattened ``B * T``; any index behind its end.
        pack_index: ``(B, T)`` int64, the inverse: indices in the flattened
            ``S * W``; any index at a pad.
        prefix_kv: For each layer K and V of the ``P`` tokens that all
            sequences begin with, ``(1, KV heads, P, D)`` each; empty where
            there is no prefix.
    """

    unpack_index: Tensor
    pack_index: Tensor
    prefix_kv: Sequence[tuple[Tensor, Tensor]] = ()


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    layout: PackedLayout,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention in each sequence, and to the prefix before it.

    A function of transformers' attention interface.

    Args:
        module: The attention layer, which has a ``layer_idx``.
        query: ``(B, heads, T, D)``.
        key: ``(B, KV heads, T, D)``.
        value: As ``key``.
        attention_mask: Not used.
        layout: Where the sequences are located.
        scaling: Factor of the scores.

    Returns:
        ``(B, T, heads, D)``, and None for the scores.
    """
    number, width = layout.unpack_index.shape
    index = layout.unpack_index.flatten()

    def unpack(x: Tensor) -> Tensor:
        flat = x.transpose(1, 2).flatten(0, 1).index_select(0, index)
        return flat.unflatten(0, (number, width)).transpose(1, 2)

    key, value, mask = unpack(key), unpack(value), None
    if layout.prefix_kv:
        prefix_keys, prefix_values = (
            x.expand(number, -1, -1, -1)
            for x in layout.prefix_kv[cast(int, module.layer_idx)]
        )
        key = torch.cat((prefix_keys, key), dim=2)
        value = torch.cat((prefix_values, value), dim=2)
        # ``is_causal`` would align with the first token of the prefix
        prefix_length = prefix_keys.shape[2]
        mask = query.new_ones(width, prefix_length + width, dtype=torch.bool)
        mask = mask.tril(prefix_length)
        groups = query.shape[1] // key.shape[1]
        if groups > 1 and query.is_cuda:
            # with a mask, only the kernel that stores all scores knows
            # groups: transformers integrations/sdpa_attention.py @ 5.17
            key = key.repeat_interleave(groups, 1)
            value = value.repeat_interleave(groups, 1)
    out = F.scaled_dot_product_attention(
        unpack(query),
        key,
        value,
        attn_mask=mask,
        is_causal=mask is None,
        scale=scaling,
        enable_gqa=key.shape[1] != query.shape[1],
    )
    flat = out.transpose(1, 2).flatten(0, 1)
    packed = flat.index_select(0, layout.pack_index.flatten())
    return packed.unflatten(0, layout.pack_index.shape), None


@functools.cache
def register() -> None:
    """Let transformers' LLMs use :func:`packed_attention` by its ``NAME``.

    Called when an LLM is built: transformers' registry and torch.compiler
    load torchvision and torch._inductor, a second of ``import minigpt4``.
    """
    # layers may be compiled; this function differs in each call
    function = torch.compiler.disable(packed_attention)
    compat.register_attention(NAME, function)
