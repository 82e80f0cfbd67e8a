# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Attention of rows that lie in one line, for transformers' LLMs.

A line holds rows one after the other, so that all matrix products see exactly
the tokens there are. Attention alone needs each row by itself: here the rows
are taken apart, attend, and are put back, which costs the square of a row's
length instead of a line's.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import compat

NAME = 'minigpt4_rows'


class RowPlaces(NamedTuple):
    """Where rows lie in lines.

    Attributes:
        places: ``(R, W)`` int64 places in the flattened ``B * T`` of each
            row, any place behind its end.
        back: ``(B, T)`` int64 places in the flattened ``R * W``; any at a
            pad.
    """

    places: Tensor
    back: Tensor


def rows_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    rows: RowPlaces,
    scaling: float | None = None,
    **_,
) -> tuple[Tensor, None]:
    """Causal attention inside each row, and to what is stored before it.

    A function of transformers' attention interface.

    Args:
        module: The attention layer.
        query: ``(B, heads, T, D)``.
        key: ``(B, KV heads, P + T, D)``, the ``P`` first of all rows.
        value: As ``key``.
        attention_mask: Not used; ``rows`` says it all.
        rows: Where the rows are.
        scaling: Factor of the scores.

    Returns:
        ``(B, T, heads, D)``, and None for the scores.
    """
    number, width = rows.places.shape
    stored = key.shape[2] - query.shape[2]
    places = rows.places.flatten()

    def apart(x: Tensor) -> Tensor:
        flat = x.transpose(1, 2).flatten(0, 1).index_select(0, places)
        return flat.unflatten(0, (number, width)).transpose(1, 2)

    def with_stored(x: Tensor) -> Tensor:
        own = apart(x[:, :, stored:])
        if not stored:
            return own
        front = x[:1, :, :stored].expand(number, -1, -1, -1)
        return torch.cat((front, own), dim=2)

    mask = None
    if stored:  # ``is_causal`` would begin at the prefix's first token
        mask = query.new_ones(width, stored + width, dtype=torch.bool)
        mask = mask.tril(stored)
    out = F.scaled_dot_product_attention(
        apart(query),
        with_stored(key),
        with_stored(value),
        attn_mask=mask,
        is_causal=not stored,
        scale=scaling,
        enable_gqa=key.shape[1] != query.shape[1],
    )
    flat = out.transpose(1, 2).flatten(0, 1)
    return flat.index_select(0, rows.back.flatten()).unflatten(
        0, rows.back.shape
    ), None


compat.register_attention(NAME, rows_attention)
