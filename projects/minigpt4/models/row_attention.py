# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Attention of rows that lie in one line, for transformers' LLMs.

A line holds rows one after the other, so that all matrix products see exactly
the tokens there are. Attention alone needs each row by itself: here the rows
are taken apart, attend, and are put back, which costs the square of a row's
length instead of a line's.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import compat

NAME = 'minigpt4_rows'


@dataclass(eq=False)
class Rows:
    """Where rows lie in lines, and what stands in front of each.

    No tuple: compiled layers hand it on unseen, and so are not made anew for
    other sizes.

    Attributes:
        places: ``(R, W)`` int64 places in the flattened ``B * T`` of each
            row, any place behind its end.
        back: ``(B, T)`` int64 places in the flattened ``R * W``; any at a
            pad.
        stored: For each layer the keys and values of the ``P`` tokens that
            all rows begin with, ``(1, KV heads, P, D)`` each; empty for none.
    """

    places: Tensor
    back: Tensor
    stored: Sequence[tuple[Tensor, Tensor]] = ()


def rows_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    rows: Rows,
    scaling: float | None = None,
    **_,
) -> tuple[Tensor, None]:
    """Causal attention inside each row, and to what is stored before it.

    A function of transformers' attention interface.

    Args:
        module: The attention layer, which knows its ``layer_idx``.
        query: ``(B, heads, T, D)``.
        key: ``(B, KV heads, T, D)``.
        value: As ``key``.
        attention_mask: Not used; ``rows`` says it all.
        rows: Where the rows are.
        scaling: Factor of the scores.

    Returns:
        ``(B, T, heads, D)``, and None for the scores.
    """
    number, width = rows.places.shape
    front = rows.stored[cast(int, module.layer_idx)] if rows.stored else None
    places = rows.places.flatten()

    def apart(x: Tensor) -> Tensor:
        flat = x.transpose(1, 2).flatten(0, 1).index_select(0, places)
        return flat.unflatten(0, (number, width)).transpose(1, 2)

    key, value, mask = apart(key), apart(value), None
    if front is not None:
        stored_keys, stored_values = (
            x.expand(number, -1, -1, -1) for x in front
        )
        key = torch.cat((stored_keys, key), dim=2)
        value = torch.cat((stored_values, value), dim=2)
        # ``is_causal`` would begin at the prefix's first token
        before = stored_keys.shape[2]
        mask = query.new_ones(width, before + width, dtype=torch.bool)
        mask = mask.tril(before)
    out = F.scaled_dot_product_attention(
        apart(query),
        key,
        value,
        attn_mask=mask,
        is_causal=mask is None,
        scale=scaling,
        enable_gqa=key.shape[1] != query.shape[1],
    )
    flat = out.transpose(1, 2).flatten(0, 1)
    return flat.index_select(0, rows.back.flatten()).unflatten(
        0, rows.back.shape
    ), None


@functools.cache
def register() -> None:
    """Let transformers' LLMs use :func:`rows_attention` by its ``NAME``.

    Called when an LLM is built: transformers' registry and torch.compiler
    load torchvision and torch._inductor, a second of ``import minigpt4``.
    """
    # layers may be compiled; this differs in each
    function = torch.compiler.disable(rows_attention)
    compat.register_attention(NAME, function)
