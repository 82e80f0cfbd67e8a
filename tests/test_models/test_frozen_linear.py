# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Linear layers of frozen parts in 8 bits: products, gradients, models."""

import os
import random
import subprocess
import sys

import pytest
import torch
from mmengine.optim import OptimWrapper
from mmengine.structures import BaseDataElement
from safetensors.torch import save_file
from torch import nn
from torchvision.transforms.functional import pil_to_tensor

from minigpt4.loading import get_model
from minigpt4.models import EVAViT, LLMDecoder, QFormer, frozen_linear
from minigpt4.models.frozen_linear import (
    FrozenLinear,
    apply_linear,
    int8_is_exact,
    multiply,
    quantise_linears,
)
from minigpt4.nano.grammar import description
from minigpt4.nano.world import render, sample_scene
from minigpt4.prompts import Turn

TYPES = {'int8': torch.int8, 'float8': torch.float8_e4m3fn}
ERROR = {'int8': 0.012, 'float8': 0.05}  # of a product, relative
# the product of a CPU without VNNI, of large numbers
PROBE = """
import runpy, sys, torch
module = runpy.run_path(sys.argv[1])
draw = torch.Generator().manual_seed(0)
x, w = (
    torch.randint(-127, 128, size, generator=draw) for size in ((40, 64),) * 2
)
x[:, :32] = 127  # more channels than are not rounded
raw = torch._int_mm(x.to(torch.int8), w.to(torch.int8).t())
print('raw', torch.equal(raw.long(), x @ w.t()))
is_exact = module['int8_is_exact']()
found = module['multiply'](x.float(), w.to(torch.int8).t(), is_exact)
print('ours', torch.equal(found.long(), x @ w.t()))
"""


def error(found, expected) -> float:
    return ((found - expected).norm() / expected.norm()).item()


def linear(inputs: int, outputs: int, bias: bool = True) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(inputs, outputs, bias).requires_grad_(False)


@pytest.mark.parametrize('dtype', TYPES)
@pytest.mark.parametrize('shape', [(1,), (17,), (3, 5), (1, 1), (2, 3, 4)])
def test_products_are_close(shape, dtype):
    layer = linear(160, 48)
    x = torch.randn(*shape, 160)
    found = FrozenLinear(layer, dtype)(x)
    assert found.shape == (*shape, 48) and found.dtype == torch.float32
    assert error(found - layer.bias, layer(x) - layer.bias) < ERROR[dtype]


@pytest.mark.parametrize('rows', [1, 16, 17, 100])
@pytest.mark.parametrize('inputs, outputs', [(64, 32), (61, 7), (1024, 16)])
def test_int8_products_of_whole_numbers_are_exact(rows, inputs, outputs):
    draw = torch.Generator().manual_seed(0)
    x = torch.randint(-127, 128, (rows, inputs), generator=draw)
    w = torch.randint(-127, 128, (outputs, inputs), generator=draw)
    x[:, :32] = 127  # more channels than are not rounded: the scale is 1
    found = multiply(x.float(), w.to(torch.int8).t(), int8_is_exact())
    assert torch.equal(found.long(), x @ w.t())


@pytest.mark.skipif(
    sys.platform != 'linux', reason='limits the instructions of oneDNN'
)
def test_a_cpu_without_vnni_is_exact():
    done = subprocess.run(
        [sys.executable, '-c', PROBE, frozen_linear.__file__],
        env={**os.environ, 'ONEDNN_MAX_CPU_ISA': 'AVX2'},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert 'ours True' in done.stdout
    if 'raw True' in done.stdout:
        pytest.skip('int8 products of this CPU are exact without VNNI')


@pytest.mark.parametrize('dtype', TYPES)
def test_gradient_of_the_input(dtype):
    layer = linear(96, 64)
    frozen = FrozenLinear(layer, dtype)
    x = torch.randn(2, 9, 96, requires_grad=True)
    y = frozen(x)
    upstream = torch.randn_like(y)
    (found,) = torch.autograd.grad(y, x, upstream)
    assert error(found, upstream @ layer.weight) < ERROR[dtype]


def test_nothing_of_the_input_is_stored():
    stored = []

    def pack(tensor):
        stored.append(tensor.shape)
        return tensor

    frozen = FrozenLinear(linear(96, 64), 'int8')
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        frozen(torch.randn(5, 96, requires_grad=True))
    assert sorted(stored) == [(64,), (64, 96)]


def test_large_input_channels_are_not_rounded():
    layer = linear(256, 64, bias=False)
    x = torch.randn(40, 256)
    x[:, ::16] *= 1000  # 16 channels, as some of an LLM
    others = x.clone()
    others[:, ::16] = 0
    difference = FrozenLinear(layer, 'int8')(x) - layer(x)
    # the rounding of the weight, and that of the other channels
    assert difference.norm() / layer(x).norm() < 0.01
    layer.weight[:] = (layer.weight * 1000).round().clamp(-127, 127)
    layer.weight[:, 0] = 127  # then the weight is exact
    difference = FrozenLinear(layer, 'int8')(x) - layer(x)
    assert difference.norm() / layer(others).norm() < 0.012


def test_an_outlier_leaves_other_rows_and_channels_as_they_are():
    layer = linear(128, 64, bias=False)
    x = torch.randn(40, 128)
    expected = layer(x)
    layer.weight[3] *= 1000  # an output channel
    x[5] *= 1000  # a token
    frozen = FrozenLinear(layer, 'int8')
    found = frozen(x)
    found[:, 3] /= 1000
    found[5] /= 1000
    assert error(found, expected) < 0.012
    # a gradient that nearly all comes from the large channel
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(frozen(x).sum(), x)
    assert error(gradient[0], layer.weight.sum(0)) < 0.012


def test_rows_without_a_scale():
    frozen = FrozenLinear(linear(32, 16), 'int8')
    x = torch.zeros(4, 32)
    x[1, 7], x[2, 7] = float('nan'), float('inf')
    x[3] = 1e-42  # smaller than any normal number
    found = frozen(x)
    assert torch.equal(found[0], frozen.bias)
    assert not found[1:3].isfinite().any()
    torch.testing.assert_close(found[3], frozen.bias)


@pytest.mark.parametrize('kind', [torch.bfloat16, torch.float16])
def test_types_of_activations(kind):
    layer = linear(64, 32)
    frozen = FrozenLinear(layer, 'int8').to(kind)
    assert frozen.weight.dtype == torch.int8
    assert frozen.scale.dtype == torch.float32
    x = torch.randn(3, 64, dtype=kind, requires_grad=True)
    y = frozen(x)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert y.dtype == gradient.dtype == kind
    assert error(y.float(), layer(x.float())) < 0.02


def test_autocast():
    layer = linear(64, 32)
    frozen = FrozenLinear(layer, 'int8')
    x = torch.randn(3, 64, requires_grad=True)
    with torch.autocast('cpu', torch.bfloat16):
        y, expected = frozen(x), layer(x)
    assert y.dtype == expected.dtype == torch.bfloat16
    (gradient,) = torch.autograd.grad(y.float().sum(), x)
    assert gradient.dtype == torch.float32
    assert error(gradient[0], layer.weight.sum(0)) < 0.012
    assert error(y.float(), expected.float()) < 0.02


def test_another_bias():
    layer = linear(64, 32)
    x, bias = torch.randn(3, 64), torch.randn(32)
    expected = apply_linear(layer, x, bias)
    torch.testing.assert_close(expected, layer(x) - layer.bias + bias)
    found = apply_linear(FrozenLinear(layer, 'int8'), x, bias)
    assert error(found, expected) < 0.012


def test_odd_sizes_keep_their_layers():
    module = nn.Sequential(linear(64, 32), linear(32, 12), linear(12, 32))
    quantise_linears(module, 'int8', 'neck')
    kinds = [type(m).__name__ for m in module]
    assert kinds == ['FrozenLinear', 'Linear', 'Linear']
    with pytest.raises(ValueError, match='the neck has no linear layer whose'):
        quantise_linears(nn.Sequential(linear(32, 12)), 'int8', 'neck')


@pytest.fixture
def build_pair(build_tiny, tmp_path):
    """Function of settings to a model in fp32 and the same in 8 bits."""

    def build(**decoder):
        full = build_tiny(decoder=decoder)
        state = full.backbone.state_dict()
        save_file(state, tmp_path / 'backbone.safetensors')
        model = build_tiny(
            backbone=dict(
                checkpoint=str(tmp_path / 'backbone.safetensors'),
                linear_dtype='int8',
            ),
            decoder=dict(linear_dtype='int8', **decoder),
        )
        # the tokens, which build_tiny draws again
        model.backbone.load_state_dict(state, strict=False)
        return full, model

    return build


def test_the_state_dict_is_that_of_the_original_model(build_pair):
    full, model = build_pair()
    state, expected = model.state_dict(), full.state_dict()
    assert set(state) == set(expected)
    for name, tensor in state.items():
        assert torch.equal(tensor, expected[name]), name
    full.load_state_dict(state)
    model.load_state_dict(expected)
    assert model.trained_names == full.trained_names


@pytest.mark.parametrize('checkpointing', [False, True])
def test_training_in_8_bits(build_pair, mixed_samples, checkpointing):
    full, model = build_pair(gradient_checkpointing=checkpointing)
    for part, count in ((model.backbone, 2 * 4), (model.decoder, 2 * 7)):
        kinds = [type(m) for m in part.modules()]
        assert kinds.count(FrozenLinear) == count
    assert type(model.decoder.llm.get_output_embeddings()) is nn.Linear
    found, expected = (gradient(m, mixed_samples) for m in (model, full))
    assert torch.cosine_similarity(found, expected, dim=0) > 0.99


def gradient(model, samples) -> torch.Tensor:
    """The projection's gradient of one training step, which is undone."""
    head = model.head.layers[0].weight
    before = head.detach().clone()
    optimizer = torch.optim.SGD([head], lr=1.0)
    model.train().train_step(samples, OptimWrapper(optimizer))
    found = (before - head.detach()).flatten()
    head.data.copy_(before)
    return found


def test_answers_in_8_bits(build_pair, mixed_samples):
    full, model = (m.eval() for m in build_pair())
    settings = dict(max_new_tokens=6, min_new_tokens=6)
    answers = model.generate(mixed_samples[:2], **settings)
    assert [len(answer.token_ids) for answer in answers] == [6, 6]
    # scores, for the best two tokens may be nearly equal
    (piece,) = model.collator(training=True)(mixed_samples)['pieces']
    batch = model.data_preprocessor(piece)
    with torch.no_grad():
        scores, expected = (
            m(**batch, mode='tensor').flatten() for m in (model, full)
        )
    assert torch.cosine_similarity(scores, expected, dim=0) > 0.999


def test_the_files_of_a_part_without_memory():
    arch = dict(width=32, depth=1, num_heads=2, mlp_width=48)
    with torch.device('meta'):
        shapes, expected = (
            {n: t.shape for n, t in EVAViT(arch, 28, **k).state_dict().items()}
            for k in (dict(linear_dtype='int8'), {})
        )
    assert shapes == expected


@pytest.mark.parametrize(
    'build, sentence',
    [
        (
            lambda: EVAViT('nano', 64, 8, frozen=False, linear_dtype='int8'),
            "backbone.linear_dtype='int8' is for frozen weights, but .* of "
            'the backbone is trained; set backbone.linear_dtype=None',
        ),
        (
            lambda: QFormer(32, width=32, frozen=False, linear_dtype='int8'),
            "neck.linear_dtype='int8' is for frozen weights",
        ),
        (
            lambda: EVAViT('nano', 64, 8, linear_dtype='int4'),
            "backbone.linear_dtype is 'int4'; expected 'int8' or 'float8'",
        ),
    ],
)
def test_other_parts_are_refused(build, sentence):
    with pytest.raises(ValueError, match=sentence) as raised:
        build()
    assert '\n' not in str(raised.value)


@pytest.mark.parametrize(
    'settings, name',
    [
        (dict(lora=dict(r=4, target_modules=['q_proj'])), 'lora'),
        (dict(shard=True), 'shard'),
    ],
)
def test_other_llms_are_refused(tiny_llm_dir, settings, name):
    with pytest.raises(ValueError, match=rf'has decoder\.{name}; omit one'):
        LLMDecoder(str(tiny_llm_dir), linear_dtype='int8', **settings)


def test_error_of_the_nano_model():
    """Loss and gradient of descriptions of other images, so that both count.

    docs/performance.md has the values.
    """
    draw = random.Random(7)
    scenes = [sample_scene(draw) for _ in range(4)]
    samples = [
        BaseDataElement(
            images=[pil_to_tensor(render(scene, draw))],
            turns=[Turn('<Img><ImageHere></Img> describe.', description(i))],
        )
        for scene, i in zip(scenes, scenes[1:] + scenes[:1], strict=True)
    ]
    losses, gradients = [], []
    for settings in ({}, dict(linear_dtype='int8')):
        parts = dict.fromkeys(('backbone', 'neck', 'decoder'), settings)
        model = get_model('minigpt-4_nano_caption', device='cpu', **parts)
        (piece,) = model.collator(training=True)(samples)['pieces']
        loss = model(**model.data_preprocessor(piece), mode='loss')['loss']
        loss.backward()
        losses.append(loss.item())
        gradients.append(model.head.layers[0].weight.grad.flatten())
    assert losses[1] == pytest.approx(losses[0], rel=0.01)
    assert torch.cosine_similarity(*gradients, dim=0) > 0.98


@pytest.mark.slow
def test_compiled_layers_in_8_bits(build_tiny, mixed_samples):
    model = build_tiny(decoder=dict(linear_dtype='int8'))
    expected = gradient(model, mixed_samples)
    model.compile_layers('aot_eager')
    found = gradient(model, mixed_samples)
    # a value in the middle of two 8-bit numbers may be rounded to either
    assert torch.cosine_similarity(found, expected, dim=0) > 0.999
