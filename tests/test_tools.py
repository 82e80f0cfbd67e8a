# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The tools that write full-size files, reckon with memory and test."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from PIL import Image
from transformers import CONFIG_MAPPING
from transformers.integrations import sdpa_attention

import minigpt4
from minigpt4 import compat
from minigpt4.models import LLMDecoder
from minigpt4.nano import pretrain
from minigpt4.nano.write_dataset import write_dataset
from minigpt4.registry import MODELS
from minigpt4.weights.read import open_tensors

ROOT = Path(__file__).parents[1]
NANO = ROOT / 'configs' / 'minigpt4' / '_base_' / 'nano.py'
SHIPPED = ROOT / 'projects' / 'minigpt4' / 'nano' / 'weights'


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
    if (
        not checkpointing
        and 'num_key_value_heads' in llm
        and not hasattr(sdpa_attention, 'use_gqa_in_sdpa')
    ):
        pytest.skip('transformers stores keys and values for every head')
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


def test_a_test_says_how_many_records_were_scored(tmp_path, run_tool):
    sizes = dict(pairs=2, descriptions=1, test_scenes=2)
    write_dataset(tmp_path / 'data' / 'nano', **sizes)
    test = tmp_path / 'data' / 'nano' / 'test'
    records = json.loads((test / 'test.json').read_text())
    skipped = sum(record['image'] == '0.jpg' for record in records)
    scored = len(records) - skipped
    weights = ROOT / 'projects/minigpt4/nano/weights/minigpt4_nano.pth'
    words = (ROOT / 'configs/minigpt4/stage2_nano.py', weights)
    (test / 'image' / '0.jpg').unlink()
    output = run_tool('test.py', *words, '--out', 'scores.json', cwd=tmp_path)
    last = output.splitlines()[-1]
    assert last == f'{scored} records were scored, {skipped} skipped'
    scores = json.loads((tmp_path / 'scores.json').read_text())
    assert scores['scored_records'] == scored
    assert scores['skipped_records'] == skipped


def run_main(name, monkeypatch, *words) -> int:
    monkeypatch.setattr(sys, 'argv', [f'{name}.py', *map(str, words)])
    return tool(name).main()


@pytest.mark.skipif(not hasattr(torch.optim, 'Muon'), reason='needs Muon')
def test_files_of_nano_weights_have_the_mode_of_new_files(
    tmp_path, monkeypatch
):
    def train_tokenizer(path, seed):
        shutil.copy(SHIPPED / 'llm/tokenizer.model', path)

    monkeypatch.setattr(pretrain, 'train_tokenizer', train_tokenizer)
    words = '--parts llm vision --llm-steps 1 --vision-steps 1'.split()
    umask = os.umask(0o027)
    try:
        run_main('build_nano', monkeypatch, *words, '--out', tmp_path / 'new')
    finally:
        os.umask(umask)
    files = {
        file.name: oct(file.stat().st_mode & 0o777)
        for file in (tmp_path / 'new').rglob('*.safetensors')
    }
    names = ('eva_vit', 'q_former', 'model')
    assert files == {f'{name}.safetensors': '0o640' for name in names}


@pytest.mark.parametrize('option', ['--llm-steps', '--vision-steps'])
def test_nano_weights_need_a_step(tmp_path, monkeypatch, capsys, option):
    monkeypatch.setattr(subprocess, 'run', pytest.fail)
    words = ['--parts', 'projection', '--out', tmp_path, option, '0']
    with pytest.raises(SystemExit):
        run_main('build_nano', monkeypatch, *words)
    assert '0 is not a whole number above 0' in capsys.readouterr().err


@pytest.mark.parametrize(
    'status, printed',
    [(3, ''), (-9, 'error: tools/nano_data.py was ended by signal 9; ')],
)
def test_a_failed_part_of_the_nano_weights_prints_its_own_error(
    tmp_path, monkeypatch, capsys, status, printed
):
    def run(command, **options):
        return subprocess.CompletedProcess(command, status)

    monkeypatch.setattr(subprocess, 'run', run)
    words = ['--parts', 'projection', '--out', tmp_path]
    try:
        ended = run_main('build_nano', monkeypatch, *words)
    except SystemExit as error:
        ended = error.code
    assert ended == max(status, 1)
    error = capsys.readouterr().err
    assert error.startswith(printed) and bool(error) == bool(printed)


def test_scores_of_a_nano_llm_name_what_is_wrong(
    tmp_path, monkeypatch, capsys
):
    missing = tmp_path / 'none'
    assert run_main('nano_llm_scores', monkeypatch, '--llm', missing) == 1
    assert f'the folder {missing} does not exist' in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run_main('nano_llm_scores', monkeypatch, '--scenes', '0')
    assert '0 is not a whole number above 0' in capsys.readouterr().err
