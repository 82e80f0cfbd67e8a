# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Packed sequences attend as each does alone."""

import pytest
import torch
from torch.nn import functional as F

from minigpt4.models.packed_attention import PackedLayout, packed_attention
from minigpt4.models.packing import build_inputs
from minigpt4.prompts import TokenizedPrompt


@pytest.mark.parametrize('pack_length', [float('inf'), 8])
@pytest.mark.parametrize('prefix_length', [0, 2])
@pytest.mark.parametrize('kv_heads', [4, 2])
def test_packed_attention_matches_the_block_mask(
    pack_length, prefix_length, kv_heads
):
    torch.manual_seed(0)
    lengths = (3, 5, 4)
    inputs = build_inputs(
        [TokenizedPrompt([1] * n, [False] * n) for n in lengths],
        1,
        pack_length=pack_length,
    )
    packs, length = inputs.token_ids.shape
    assert packs == (1 if pack_length > 8 else 2)
    q = torch.randn(packs, 4, length, 6, requires_grad=True)
    k, v = (torch.randn(packs, kv_heads, length, 6) for _ in range(2))
    prefix_kv = torch.randn(2, 1, kv_heads, prefix_length, 6)
    module = torch.nn.Identity()
    module.layer_idx = 1
    layers = [
        (prefix_kv[0] + 9, prefix_kv[1] + 9),
        (prefix_kv[0], prefix_kv[1]),
    ]
    out, none = packed_attention(
        module,
        q,
        k,
        v,
        None,
        layout=PackedLayout(
            inputs.unpack_index,
            inputs.pack_index,
            layers if prefix_length else (),
        ),
    )
    assert none is None
    assert out.shape == (packs, length, 4, 6)
    keys, values = (
        torch.cat((f.expand(packs, -1, -1, -1), x), dim=2)
        for f, x in zip(prefix_kv, (k, v))
    )
    mask = F.pad(inputs.block_mask(), (prefix_length, 0), value=True)
    expected = F.scaled_dot_product_attention(
        q, keys, values, attn_mask=mask, enable_gqa=True
    ).transpose(1, 2)
    real = inputs.sequence_ids > 0
    torch.testing.assert_close(out[real], expected[real])
    (gradient,) = torch.autograd.grad(out[real].sin().sum(), q)
    (expected_gradient,) = torch.autograd.grad(expected[real].sin().sum(), q)
    torch.testing.assert_close(gradient, expected_gradient)
