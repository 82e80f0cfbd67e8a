# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Memory, quantization and devices of the LLM."""

import json
import subprocess
import sys
from importlib import util

import pytest
import torch
from mmengine.optim import OptimWrapper
from torch import distributed, nn

from minigpt4 import compat
from minigpt4.models import LLMDecoder

BITS = {8: dict(load_in_8bit=True), 4: dict(load_in_4bit=True)}
LAYERS = {
    'model.embed_tokens': 'cpu',
    'model.layers.0': 'cpu',
    'model.layers.1': 'disk',
    'model.norm': 'cpu',
    'model.rotary_emb': 'cpu',
    'lm_head': 'disk',
}
GPUS = torch.cuda.device_count()
quantised = pytest.mark.skipif(
    not (util.find_spec('bitsandbytes') and util.find_spec('accelerate'))
    or not (GPUS or compat.quantises_on_cpu()),
    reason='needs bitsandbytes, accelerate and transformers 5 or a GPU',
)
spread = pytest.mark.skipif(
    not util.find_spec('accelerate'), reason='device maps need accelerate'
)

# prints the peak of anonymous memory that loading takes, in bytes; each model
# in a fork of a process that has imported all modules
PROBE = """
import os, re, sys, threading, time
import transformers.models.llama.modeling_llama
from minigpt4.models import LLMDecoder

def own():
    status = open('/proc/self/status').read()
    return int(re.search(r'RssAnon:\\s+(\\d+)', status)[1]) * 1024

def watch():
    while True:
        seen.append(own())
        time.sleep(0.002)

LLMDecoder('nano/llm')  # what is imported on the way
for folder in sys.argv[1:]:
    if os.fork():
        assert os.wait()[1] == 0
        continue
    seen = [own()]
    threading.Thread(target=watch, daemon=True).start()
    decoder = LLMDecoder(folder, dtype='bfloat16')
    seen.append(own())  # the thread may be late
    assert {str(p.dtype) for p in decoder.parameters()} == {'torch.bfloat16'}
    print('peak', max(seen) - seen[0])
    break
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
def test_loading_never_holds_two_copies(make_llm):
    """Weights of the same dtype are mapped; others converted one by one."""
    size = 135_546_880  # bytes in bf16
    folders = []
    for stored in ('bfloat16', 'float16', 'float32'):
        folders.append(
            make_llm(
                model_type='llama',
                vocab_size=8000,
                hidden_size=1024,
                intermediate_size=2816,
                num_hidden_layers=4,
                num_attention_heads=16,
                dtype=stored,
            )
        )
        on_disk = (folders[-1] / 'model.safetensors').stat().st_size
        assert on_disk >= size * (2 if stored == 'float32' else 1)
    done = subprocess.run(
        [sys.executable, '-c', PROBE, *folders],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    mapped, *converted = (
        int(line.split()[1]) / size
        for line in done.stdout.splitlines()
        if line.startswith('peak ')
    )
    assert mapped < 0.1
    assert len(converted) == 2
    assert all(0.9 < copies < 1.1 for copies in converted), converted


def gradient(model, samples) -> torch.Tensor:
    """The projection's gradient of one training step."""
    head = model.head.layers[0].weight
    before = head.detach().clone()
    optimizer = torch.optim.SGD([head], lr=1.0)
    model.train().train_step(samples, OptimWrapper(optimizer))
    return (before - head.detach()).flatten()


@pytest.fixture
def build_nano(build_tiny):
    """A tiny vision encoder with the trained nano LLM."""

    def build(**decoder):
        return build_tiny(decoder=dict(name_or_path='nano/llm', **decoder))

    return build


def copy_rounded_weights(model, full) -> None:
    """Give a model the weights of a quantised one, as numbers."""
    from bitsandbytes.functional import dequantize_4bit

    layers = dict(full.decoder.llm.named_modules())
    for name, layer in model.decoder.llm.named_modules():
        kind = type(layer).__name__
        if kind == 'Linear4bit':
            weight = dequantize_4bit(layer.weight, layer.weight.quant_state)
        elif kind == 'Linear8bitLt':
            weight = layer.weight.CB * layer.weight.SCB[:, None] / 127
        else:
            continue
        layers[name].weight.data.copy_(weight)


@quantised
@pytest.mark.parametrize('bits, least', [(8, 0.98), (4, 0.99)])
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_quantised_base_of_training(
    build_nano, mixed_samples, bits, least, dtype
):
    """The gradient is that of the rounded weights.

    How far rounding itself moves it depends on the LLM: with 4 bits its
    cosine with that of the exact weights is 0.6 to 0.8 for the nano LLM.
    """
    full = build_nano(dtype='float32')
    model = build_nano(dtype=dtype, quantization=BITS[bits])
    copy_rounded_weights(model, full)
    kinds = {type(m).__name__ for m in model.decoder.llm.modules()}
    assert {8: 'Linear8bitLt', 4: 'Linear4bit'}[bits] in kinds
    assert model.decoder.llm.lm_head.weight.dtype == getattr(torch, dtype)
    found, expected = (gradient(m, mixed_samples) for m in (model, full))
    assert found.isfinite().all() and found.abs().sum() > 0
    assert torch.cosine_similarity(found, expected, dim=0) > least
    # the checkpoint is that of the unquantised model, and serves it
    state = model.state_dict()
    assert set(state) == set(full.state_dict())
    full.load_state_dict(state)
    model.load_state_dict(full.state_dict())


@quantised
@pytest.mark.parametrize('bits', [8, 4])
def test_quantised_llm_answers(build_nano, mixed_samples, bits):
    model = build_nano(quantization=BITS[bits]).eval()
    settings = dict(max_new_tokens=6, min_new_tokens=6)
    answers = model.generate(mixed_samples[:2], **settings)
    assert [len(answer.token_ids) for answer in answers] == [6, 6]
    # scores, for the best two tokens may be nearly equal
    (piece,) = model.collator(training=True)(mixed_samples)['pieces']
    batch = model.data_preprocessor(piece)
    with torch.no_grad():
        scores, expected = (
            m(**batch, mode='tensor').flatten()
            for m in (model, build_nano(dtype='float32'))
        )
    similarity = torch.cosine_similarity(scores, expected, dim=0)
    assert similarity > {8: 0.999, 4: 0.97}[bits]


@quantised
@pytest.mark.parametrize('bits', [8, 4])
def test_quantised_base_of_lora(build_nano, mixed_samples, bits):
    pytest.importorskip('peft', reason='LoRA needs peft')
    model = build_nano(
        quantization=BITS[bits],
        lora=dict(r=4, target_modules=['q_proj', 'v_proj']),
    )
    trained = dict(model.named_parameters())
    trained = {name: trained[name] for name in model.trained_names}
    assert len(trained) == 2 + 4 * 2 * 2
    optimizer = torch.optim.SGD(trained.values(), lr=0.1)
    before = {name: p.detach().clone() for name, p in trained.items()}
    wrapper = OptimWrapper(optimizer)
    for _ in range(2):  # B starts at zero, so A learns from the second step
        model.train().train_step(mixed_samples, wrapper)
    for name, parameter in trained.items():
        assert parameter.dtype == torch.float32, name
        assert parameter.isfinite().all(), name
        assert not torch.equal(parameter, before[name]), name
    state = {k: v.clone() for k, v in model.state_dict().items()}
    assert set(state) == {*trained, 'llm_fingerprint'}
    again = build_nano(
        quantization=BITS[bits],
        lora=dict(r=4, target_modules=['q_proj', 'v_proj']),
    )
    again.load_state_dict(state)
    for name, parameter in again.named_parameters():
        if parameter.requires_grad:
            assert torch.equal(parameter, state[name]), name


@quantised
@pytest.mark.parametrize('bits', [8, 4])
def test_a_quantised_llm_keeps_its_device_and_dtype(build_nano, bits):
    model = build_nano(quantization=BITS[bits])
    before = {n: p.dtype for n, p in model.decoder.named_parameters()}
    model.to('cpu').to(torch.bfloat16)
    nn.ModuleList([model]).half()
    after = {n: p.dtype for n, p in model.decoder.named_parameters()}
    assert after == before
    assert model.head.layers[0].weight.dtype == torch.float16


@quantised
def test_four_bits_compute_in_the_dtype_of_the_llm():
    decoder = LLMDecoder('nano/llm', dtype='bfloat16', quantization=BITS[4])
    layer = decoder.llm.model.layers[0].mlp.up_proj
    assert layer.compute_dtype == torch.bfloat16
    assert layer.weight.quant_type == 'nf4'
    decoder = LLMDecoder(
        'nano/llm',
        dtype='bfloat16',
        quantization=dict(
            BITS[4],
            bnb_4bit_compute_dtype='float32',
            bnb_4bit_quant_type='fp4',
        ),
    )
    layer = decoder.llm.model.layers[0].mlp.up_proj
    assert layer.compute_dtype == torch.float32
    assert layer.weight.quant_type == 'fp4'


@quantised
def test_a_quantised_folder_loads(tiny_llm_dir, tmp_path, mixed_samples):
    first = LLMDecoder(str(tiny_llm_dir), quantization=BITS[8])
    first.llm.save_pretrained(tmp_path)
    first.tokenizer.save_pretrained(tmp_path)
    again = LLMDecoder(str(tmp_path))
    assert again.has_fixed_device
    again.check_fingerprint(first.fingerprint())
    ids = torch.randint(3, 200, (1, 6))
    with torch.no_grad():
        torch.testing.assert_close(
            again.llm(ids).logits, first.llm(ids).logits
        )
    with pytest.raises(ValueError, match='is quantised already; omit'):
        LLMDecoder(str(tmp_path), quantization=BITS[8])
    with pytest.raises(ValueError, match='shard=True cannot shard'):
        LLMDecoder(str(tmp_path), shard=True)


def test_another_quantization_is_refused(make_llm):
    folder = make_llm(
        model_type='llama',
        vocab_size=400,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    config = json.loads((folder / 'config.json').read_text())
    config['quantization_config'] = dict(quant_method='gptq', bits=4)
    (folder / 'config.json').write_text(json.dumps(config))
    with pytest.raises(ValueError, match='quantised with gptq, whose grad'):
        LLMDecoder(str(folder))


@pytest.mark.parametrize(
    'settings, sentence',
    [
        (dict(load_in_4bits=True), r'load_in_4bits is unknown'),
        (dict(bnb_4bit_quant_type='nf4'), 'expected load_in_8bit=True or'),
        (dict(load_in_8bit=True, load_in_4bit=True), 'expected load_in_8bit'),
        ('8bit', "decoder.quantization is '8bit'; expected arguments of"),
        (8, 'decoder.quantization is 8; expected arguments of'),
        (True, 'decoder.quantization is True; expected arguments of'),
    ],
)
@quantised
def test_invalid_quantization_settings_are_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        LLMDecoder('nano/llm', quantization=settings)


@pytest.mark.parametrize(
    'missing, settings',
    [
        ('bitsandbytes', dict(quantization=BITS[4])),
        ('accelerate', dict(quantization=BITS[8])),
        ('accelerate', dict(device_map='auto')),
    ],
)
def test_a_missing_library_is_named(monkeypatch, missing, settings):
    monkeypatch.setattr(
        'minigpt4.llm.load_options.find_spec',
        lambda name: None if name == missing else util.find_spec(name),
    )
    if missing == 'bitsandbytes' and not util.find_spec('accelerate'):
        pytest.skip('accelerate is missing too')
    with pytest.raises(
        ImportError, match=rf"{missing}.*pip install 'minigpt4\[quant\]'"
    ):
        LLMDecoder('nano/llm', **settings)


@quantised
@pytest.mark.skipif(GPUS > 0, reason='a GPU quantises with any version')
def test_libraries_that_need_a_gpu(monkeypatch):
    monkeypatch.setattr(compat, 'quantises_on_cpu', lambda: False)
    with pytest.raises(RuntimeError, match="run: pip install 'transformers>"):
        LLMDecoder('nano/llm', quantization=BITS[8])


@spread
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_spread_over_memory_and_disk(
    tiny_llm_dir, build_tiny, mixed_samples, dtype
):
    full = build_tiny(decoder=dict(dtype=dtype))
    full.decoder.has_device_map = True  # for the same attention function
    model = build_tiny(decoder=dict(dtype=dtype, device_map=LAYERS))
    layer = model.decoder.llm.model.layers[1]
    assert layer.mlp.up_proj.weight.is_meta
    model.to('cpu')  # what a runner does
    nn.ModuleList([model]).float()
    assert layer.mlp.up_proj.weight.is_meta
    expected, got = (m.train() for m in (full, model))
    (piece,) = expected.collator(True)(mixed_samples)['pieces']
    batch = expected.data_preprocessor(piece)
    with torch.no_grad():
        logits = [m(**batch, mode='tensor') for m in (expected, got)]
    assert torch.equal(*logits)
    gradients = [gradient(m, mixed_samples) for m in (expected, got)]
    assert torch.equal(*gradients)
    if dtype == 'float32':  # in bfloat16 two of the best tokens can be equal
        answers = [
            m.eval().generate(mixed_samples[:2], max_new_tokens=5)
            for m in (expected, got)
        ]
        assert answers[0] == answers[1]
    model.load_state_dict(full.state_dict())


@spread
def test_fingerprint_of_embeddings_on_disk(tiny_llm_dir):
    plain = LLMDecoder(str(tiny_llm_dir))
    away = LLMDecoder(
        str(tiny_llm_dir),
        device_map={**LAYERS, 'model.embed_tokens': 'disk', 'lm_head': 'cpu'},
    )
    assert away.llm.get_input_embeddings().weight.is_meta
    assert away.fingerprint() == plain.fingerprint()


@spread
@pytest.mark.parametrize('device_map', ['auto', 'balanced', {'': 'cpu'}])
def test_device_maps_of_one_device(tiny_llm_dir, device_map):
    plain = LLMDecoder(str(tiny_llm_dir))
    decoder = LLMDecoder(
        str(tiny_llm_dir), dtype='float32', device_map=device_map
    )
    ids = torch.randint(3, 200, (1, 6))
    torch.testing.assert_close(
        decoder.embed_tokens(ids), plain.embed_tokens(ids)
    )


@spread
def test_max_memory_spreads(tiny_llm_dir):
    decoder = LLMDecoder(
        str(tiny_llm_dir), device_map='auto', max_memory={'cpu': 60_000}
    )
    assert 'disk' in decoder.llm.hf_device_map.values()


@pytest.mark.parametrize(
    'settings, sentence',
    [
        (dict(device_map='cuda:0,1'), "is 'cuda:0,1'; expected one of auto"),
        (dict(device_map=3), 'is 3; expected one of auto'),
        (dict(max_memory={0: '1GiB'}), 'which needs decoder.device_map'),
        (
            dict(device_map='auto', max_memory='8GiB'),
            "max_memory is '8GiB'; expected a dict of devices and sizes",
        ),
        (dict(dtype=16), 'dtype 16 is no floating-point type'),
        (dict(lora=dict(r='x')), 'which peft does not take'),
        (dict(device_map='auto', shard=True), 'cannot shard'),
    ],
)
@spread
def test_wrong_placements(tiny_llm_dir, settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        LLMDecoder(str(tiny_llm_dir), **settings)


@spread
def test_device_map_of_several_processes(tiny_llm_dir, monkeypatch):
    monkeypatch.setattr('mmengine.dist.get_world_size', lambda: 2)
    with pytest.raises(ValueError, match='but there are 2; start one'):
        LLMDecoder(str(tiny_llm_dir), device_map='auto')


def test_the_fingerprint_of_a_sharded_llm(tiny_llm_dir, tmp_path):
    plain = LLMDecoder(str(tiny_llm_dir)).fingerprint()
    distributed.init_process_group(
        'gloo', init_method=f'file://{tmp_path}/ranks', rank=0, world_size=1
    )
    try:
        sharded = LLMDecoder(str(tiny_llm_dir), shard=True)
        kinds = {type(p).__name__ for p in sharded.parameters()}
        assert 'DTensor' in kinds
        assert sharded.fingerprint() == plain
    finally:
        distributed.destroy_process_group()


@pytest.mark.gpu
@quantised
@pytest.mark.parametrize('bits', [8, 4])
def test_quantised_training_on_a_gpu(build_nano, mixed_samples, bits):
    full = build_nano(dtype='bfloat16').to('cuda')
    model = build_nano(dtype='bfloat16', quantization=BITS[bits]).to('cuda')
    copy_rounded_weights(model, full)
    found, expected = (gradient(m, mixed_samples) for m in (model, full))
    assert found.isfinite().all()
    assert torch.cosine_similarity(found, expected, dim=0) > 0.98
    assert model.eval().generate(mixed_samples[:2], max_new_tokens=4)


@pytest.mark.gpu
@spread
@pytest.mark.skipif(GPUS < 2, reason='needs two GPUs')
@pytest.mark.parametrize('first', [0, 1])
def test_spread_over_two_gpus(build_tiny, mixed_samples, first):
    """Also where the LLM's first layer is not on the backbone's GPU."""
    full = build_tiny().to('cuda:0')
    devices = {name: first for name in LAYERS}
    devices['model.layers.1'] = devices['lm_head'] = 1 - first
    model = build_tiny(decoder=dict(device_map=devices)).to('cuda:0')
    gradients = [gradient(m, mixed_samples) for m in (full, model)]
    torch.testing.assert_close(*gradients)
    answers = [
        m.eval().generate(mixed_samples[:2], max_new_tokens=5)
        for m in (full, model)
    ]
    assert answers[0] == answers[1]
