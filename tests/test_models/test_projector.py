# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The head: the trained layer."""

import pytest
import torch
from torch.nn import functional as F

from minigpt4.models import LinearProjector


@pytest.mark.parametrize(
    'widths, parameters',
    [
        ((768, 4096), 3_149_824),
        ((768, 5120), 3_937_280),
        ((5632, 4096), 23_072_768),
    ],
)
def test_trained_numbers_of_the_paper(widths, parameters):
    with torch.device('meta'):
        head = LinearProjector(*widths)
    assert sum(p.numel() for p in head.parameters()) == parameters
    assert all(p.requires_grad for p in head.parameters())


def test_one_layer_is_linear_and_fp32():
    head = LinearProjector(4, 6)
    queries = torch.randn(2, 3, 4).bfloat16()
    out = head(queries)
    assert out.dtype == torch.float32
    weight, bias = head.parameters()
    torch.testing.assert_close(
        out,
        queries.float() @ weight.detach().T + bias.detach(),
        check_dtype=True,
    )


def test_three_layers_are_not_linear():
    head = LinearProjector(4, 6, num_layers=3)
    shapes = [tuple(p.shape) for p in head.parameters() if p.ndim == 2]
    assert shapes == [(6, 4), (6, 6), (6, 6)]
    queries = torch.randn(2, 3, 4)
    weights = list(head.parameters())
    want = queries
    for i in range(3):
        want = F.linear(want, *weights[2 * i : 2 * i + 2])
        want = F.gelu(want) if i < 2 else want
    torch.testing.assert_close(head(queries), want)


def test_learned_prefix_precedes_the_tokens_of_each_image():
    head = LinearProjector(4, 6, num_prefix_tokens=2)
    with torch.no_grad():
        head.prefix.copy_(torch.randn(2, 6))
    queries = torch.randn(3, 5, 4)
    out = head(queries)
    assert out.shape == (3, 7, 6)
    torch.testing.assert_close(out[:, :2], head.prefix.expand(3, 2, 6))
    torch.testing.assert_close(out[:, 2:], head.layers(queries))
    out[:, :2].sum().backward()
    assert head.prefix.grad.abs().min() > 0


def test_position_biases_belong_to_the_tokens_of_an_image():
    head = LinearProjector(
        4, 6, num_prefix_tokens=2, position_bias=True, num_tokens=5
    )
    queries = torch.randn(3, 5, 4)
    torch.testing.assert_close(head(queries)[:, 2:], head.layers(queries))
    biases = torch.randn(5, 6)
    with torch.no_grad():
        head.position_bias.copy_(biases)
    torch.testing.assert_close(
        head(queries)[:, 2:], head.layers(queries) + biases
    )
    with pytest.raises(ValueError, match='num_tokens is not set'):
        LinearProjector(4, 6, position_bias=True)


def test_model_with_position_biases_trains(build_tiny, mixed_samples):
    model = build_tiny(
        head=dict(type='minigpt4.LinearProjector', position_bias=True)
    )
    biases = model.head.position_bias
    assert biases.shape[0] == model.num_image_tokens
    data = model.collator(training=True)(mixed_samples)
    piece = model.data_preprocessor(data['pieces'][0])
    model.loss(piece['images'], piece['inputs'])['loss'].backward()
    assert biases.grad.abs().amax(1).min() > 0


def test_model_with_prefix_trains_and_answers(build_tiny, mixed_samples):
    plain = build_tiny()
    model = build_tiny(
        head=dict(type='minigpt4.LinearProjector', num_prefix_tokens=3)
    )
    assert 'head.prefix' in model.trained_names
    assert model.num_image_tokens == plain.num_image_tokens + 3
    data = model.collator(training=True)(mixed_samples)
    piece = model.data_preprocessor(data['pieces'][0])
    model.loss(piece['images'], piece['inputs'])['loss'].backward()
    assert model.head.prefix.grad.abs().max() > 0
    answers = model.eval().generate(mixed_samples, max_new_tokens=3)
    assert len(answers) == len(mixed_samples)
