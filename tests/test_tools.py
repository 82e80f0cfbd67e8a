# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The tools that write full-size files and reckon with memory."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from PIL import Image
from transformers import CONFIG_MAPPING

import minigpt4
from minigpt4 import compat
from minigpt4.models import LLMDecoder
from minigpt4.registry import MODELS
from minigpt4.weights.read import open_tensors

ROOT = Path(__file__).parents[1]
NANO = ROOT / 'configs' / 'minigpt4' / '_base_' / 'nano.py'


def tool(name: str):
    """A file of tools/ as a module."""
    spec = importlib.util.spec_from_file_location(
        name, ROOT / 'tools' / f'{name}.py'
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def need_quantisation() -> None:
    pytest.importorskip('bitsandbytes', reason='needs bitsandbytes')
    pytest.importorskip('accelerate', reason='needs accelerate')
    if not compat.quantises_on_cpu():
        pytest.skip('quantises on GPUs alone')


def write_random(out: Path, monkeypatch) -> Path:
    monkeypatch.setattr(
        sys, 'argv', ['random_model.py', str(out), '--size', 'nano']
    )
    tool('random_model').main()
    return out


def test_random_model_loads_and_answers(tmp_path, monkeypatch):
    out = write_random(tmp_path / 'a', monkeypatch)
    again = write_random(tmp_path / 'b', monkeypatch)
    for file in ('eva_vit.safetensors', 'llm/model.safetensors'):
        assert (out / file).read_bytes() == (again / file).read_bytes()
    model = minigpt4.get_model(
        'minigpt-4_nano_caption',
        pretrained=str(out / 'projection.pth'),
        backbone=dict(checkpoint=str(out / 'eva_vit.safetensors')),
        neck=dict(checkpoint=str(out / 'q_former.safetensors')),
        decoder=dict(name_or_path=str(out / 'llm')),
    )
    assert model.backbone.blocks[0].norm1.weight.eq(1).all()
    assert 0.01 < model.backbone.blocks[0].mlp.fc1.weight.std() < 0.03
    answer = minigpt4.inference_model(
        model, torch.zeros(64, 64, 3).byte().numpy(), max_new_tokens=4
    )
    assert isinstance(answer['pred_caption'], str)
    tensors = open_tensors(out / 'projection.pth')
    assert set(tensors) == {'llama_proj.weight', 'llama_proj.bias'}


@pytest.fixture
def empty_nano():
    with torch.device('meta'):
        return MODELS.build(Config.fromfile(NANO).model)


def bytes_of(llm) -> int:
    """What the tensors of an LLM take, quantised ones with their scales."""
    total = 0
    for parameter in llm.parameters():
        total += parameter.nbytes
        state = getattr(parameter, 'quant_state', None)
        if state is not None:
            total += state.absmax.nbytes
        if getattr(parameter, 'SCB', None) is not None:
            total += parameter.SCB.nbytes
    return total


@pytest.mark.parametrize(
    'bits, settings',
    [
        ('fp32', dict(dtype='float32')),
        ('bf16', dict(dtype='bfloat16')),
        ('8-bit', dict(quantization=dict(load_in_8bit=True))),
        ('4-bit', dict(quantization=dict(load_in_4bit=True))),
    ],
)
def test_estimated_weights_are_those_of_the_llm(empty_nano, bits, settings):
    if 'quantization' in settings:
        need_quantisation()
        settings = dict(settings, dtype='bfloat16')
    memory = tool('memory')
    wide = 4 if bits == 'fp32' else 2
    n = {
        p: sum(t.numel() for t in getattr(empty_nano, p).parameters())
        for p in ('backbone', 'neck', 'head')
    }
    others = wide * n['backbone'] + 4 * n['neck'] + 16 * n['head']
    want = bytes_of(LLMDecoder('nano/llm', **settings).llm)
    assert memory.weight_bytes(empty_nano, bits) - others == want


def kept(loss) -> int:
    """Bytes that 8-bit layers keep outside of autograd's own list."""
    seen, nodes, storages = set(), [loss.grad_fn], {}
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        nodes += [parent for parent, _ in node.next_functions]
        for tensor in getattr(node, 'tensors', None) or ():
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


@pytest.mark.parametrize('bits', ['fp32', 'bf16', '8-bit'])
@pytest.mark.parametrize('checkpointing', [False, True])
@pytest.mark.parametrize(
    'llm',
    [
        dict(model_type='llama'),
        dict(model_type='llama', num_key_value_heads=2),
        dict(model_type='qwen2', num_key_value_heads=2),
        dict(model_type='qwen3', num_key_value_heads=2, head_dim=192),
    ],
)
def test_estimated_activations_are_those_saved(
    make_llm, llm, bits, checkpointing
):
    if bits == '8-bit':
        need_quantisation()
        if checkpointing:
            pytest.skip('what is recomputed is counted in the other types')
    folder = make_llm(
        **llm,
        vocab_size=400,
        hidden_size=512,
        intermediate_size=1376,
        num_hidden_layers=4,
        num_attention_heads=4,
    )
    decoder = LLMDecoder(
        str(folder),
        dtype='float32' if bits == 'fp32' else 'bfloat16',
        quantization=dict(load_in_8bit=True, llm_int8_threshold=0.0)
        if bits == '8-bit'
        else None,
        gradient_checkpointing=checkpointing,
    ).train()
    parameters = {p.untyped_storage().data_ptr() for p in decoder.parameters()}
    storages: dict[int, int] = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            storages[storage.data_ptr()] = storage.nbytes()
        alive.append(tensor)
        return tensor

    alive: list = []
    embeddings = torch.randn(2, 24, 512).to(decoder.llm.dtype).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        hidden = decoder.hidden_states(
            embeddings,
            torch.ones(2, 24, dtype=torch.long),
            torch.arange(24).expand(2, 24),
        )
    places = embeddings.shape[0] * embeddings.shape[1]
    found = (sum(storages.values()) + kept(hidden)) / places
    config = decoder.llm.config
    want = tool('memory').saved_bytes(config, bits, checkpointing)
    if checkpointing:  # the layer that is recomputed comes in backward
        once = tool('memory').saved_bytes(config, bits)
        want -= (once - 4 * 512) / config.num_hidden_layers
    assert found == pytest.approx(want, rel=0.03)


def test_estimates_are_those_of_the_documentation(capsys):
    tool('memory').print_estimates()
    table = capsys.readouterr().out
    assert table.count('\n') == 12
    page = (ROOT / 'docs' / 'memory.md').read_text()
    assert table in page
    if 'qwen3' not in CONFIG_MAPPING:
        pytest.skip('transformers does not know qwen3')
    tool('memory').print_small_estimates()
    table = capsys.readouterr().out
    assert table.count('\n') == 6
    assert table in page


def test_configs_for_8_gb_fit():
    """With 2 GB of 8 GiB for CUDA and fragmentation."""
    memory = tool('memory')
    for name in memory.SMALL_LLMS.values():
        for stage, numbers in memory.SMALL_STAGES.items():
            cfg = Config.fromfile(
                ROOT / 'configs' / 'minigpt4' / f'{stage}_{name}.py'
            )
            if cfg.model.decoder.arch.model_type not in CONFIG_MAPPING:
                continue
            with torch.device('meta'):
                model = MODELS.build(cfg.model)
            size = model.micro_batch_size or cfg.global_batch_size
            assert memory.estimate(model, 'bf16', size, *numbers) < 6.5e9


def test_memory_is_measured(capsys, monkeypatch):
    configs = ROOT / 'configs' / 'minigpt4'
    for words, line in (
        (['inference', configs / 'minigpt_4_nano_caption.py'], 'answer 8 tok'),
        (['train', configs / 'stage2_nano.py', '--batch=2'], 'step 2, 2 samp'),
    ):
        argv = ['memory.py', 'measure', *map(str, words)]
        monkeypatch.setattr(sys, 'argv', argv)
        tool('memory').main()
        out = capsys.readouterr().out
        assert line in out and 'GB own' in out


def test_photo_examples_are_drawn_with_their_descriptions(tmp_path, capsys):
    scene = ROOT / 'demo' / 'scene.png'
    out = tmp_path / 'photos.png'
    tool('draw_photo_examples').main(
        [str(scene)] * 4
        + ['--model', 'minigpt-4_nano_caption', '--out', str(out)]
    )
    text = capsys.readouterr().out
    assert text.count('scene.png: The image shows three shapes') == 4
    assert f'{out.stat().st_size:,} bytes' in text
    with Image.open(out) as page:
        assert page.width == 948  # three photographs in the first row
        assert page.height > 2 * 200
