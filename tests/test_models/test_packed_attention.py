# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Rows that are taken apart attend as each would alone."""

import pytest
import torch
from torch.nn import functional as F

from minigpt4.models.collator import build_inputs
from minigpt4.models.row_attention import Rows, rows_attention
from minigpt4.prompts import TokenizedPrompt


@pytest.mark.parametrize('line_length', [float('inf'), 8])
@pytest.mark.parametrize('stored', [0, 2])
@pytest.mark.parametrize('kv_heads', [4, 2])
def test_each_row_by_itself(line_length, stored, kv_heads):
    torch.manual_seed(0)
    lengths = (3, 5, 4)
    inputs = build_inputs(
        [TokenizedPrompt([1] * n, [False] * n) for n in lengths],
        1,
        line_length=line_length,
    )
    lines, length = inputs.token_ids.shape
    assert lines == (1 if line_length > 8 else 2)
    q = torch.randn(lines, 4, length, 6, requires_grad=True)
    k, v = (torch.randn(lines, kv_heads, length, 6) for _ in range(2))
    front = torch.randn(2, 1, kv_heads, stored, 6)
    module = torch.nn.Identity()
    module.layer_idx = 1
    layers = [(front[0] + 9, front[1] + 9), (front[0], front[1])]
    out, none = rows_attention(
        module,
        q,
        k,
        v,
        None,
        rows=Rows(
            inputs.row_places, inputs.row_backs, layers if stored else ()
        ),
    )
    assert none is None
    assert out.shape == (lines, length, 4, 6)
    keys, values = (
        torch.cat((f.expand(lines, -1, -1, -1), x), dim=2)
        for f, x in zip(front, (k, v))
    )
    mask = F.pad(inputs.block_mask(), (stored, 0), value=True)
    want = F.scaled_dot_product_attention(
        q, keys, values, attn_mask=mask, enable_gqa=True
    ).transpose(1, 2)
    real = inputs.row_ids > 0
    torch.testing.assert_close(out[real], want[real])
    (gradient,) = torch.autograd.grad(out[real].sin().sum(), q)
    (wanted,) = torch.autograd.grad(want[real].sin().sum(), q)
    torch.testing.assert_close(gradient, wanted)
