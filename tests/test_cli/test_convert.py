# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""``minigpt4 convert`` on the command line."""

import os
import re
import shutil
import signal

import pytest
import torch
from safetensors.torch import load_file, save_file

from minigpt4.llm.fingerprint import decode_fingerprint
from minigpt4.weights.shipped import NANO_FOLDER as SHIPPED
from minigpt4_cli import main as cli

NANO = 'minigpt-4_nano_caption'
HEAD = 'nano/minigpt4_nano.pth'


def main(arguments):
    return cli.main(['convert', *arguments])


def test_help():
    with pytest.raises(SystemExit) as status:
        cli.main(['convert', '--help'])
    assert status.value.code == 0


def test_report_and_output_are_printed(tmp_path, capsys):
    out = str(tmp_path / 'a.pth')
    done = main([HEAD, '-o', out, '--to', 'official', '--model', NANO])
    said = capsys.readouterr().out
    assert done == 0
    assert 'head: layout ours: 3 tensors matched' in said
    assert 'a projection 128 -> 192' in said
    assert said.endswith(f'written: {out}\n')
    assert set(torch.load(out)['model']) == {
        'llama_proj.weight',
        'llama_proj.bias',
        'llm_fingerprint',
    }


def test_fingerprint_of_an_llm_is_added(tmp_path, capsys):
    """The published files have none; the user names the LLM."""
    bare = torch.load('projects/minigpt4/nano/weights/minigpt4_nano.pth')
    want = bare['state_dict'].pop('llm_fingerprint')
    torch.save(bare, tmp_path / 'bare.pth')
    out = str(tmp_path / 'a.pth')
    arguments = [str(tmp_path / 'bare.pth'), '-o', out, '--model', NANO]
    assert main([*arguments, '--llm', 'nano/llm']) == 0
    found = torch.load(out)['state_dict']['llm_fingerprint']
    expected = decode_fingerprint(want)
    expected.pop('vision')  # that of the training
    assert decode_fingerprint(found) == expected
    # one that is there already is not overwritten in silence
    done = main([HEAD, '-o', out, '--model', NANO, '--llm', 'nano/llm'])
    assert done == 1
    assert 'has a fingerprint already' in capsys.readouterr().err


def test_llm_without_embeddings_is_refused(tmp_path, capsys):
    llm = shutil.copytree(SHIPPED / 'llm', tmp_path / 'llm')
    weights = load_file(llm / 'model.safetensors')
    del weights['model.embed_tokens.weight']
    save_file(weights, llm / 'model.safetensors')
    bare = torch.load(SHIPPED / 'minigpt4_nano.pth')
    del bare['state_dict']['llm_fingerprint']
    torch.save(bare, tmp_path / 'bare.pth')
    files = [str(tmp_path / 'bare.pth'), '-o', str(tmp_path / 'a.pth')]
    assert main([*files, '--model', NANO, '--llm', str(llm)]) == 1
    assert 'lack model.embed_tokens.weight, the' in capsys.readouterr().err


@pytest.mark.parametrize(
    'arguments, sentence',
    [
        (['none.pth'], 'none.pth is no file; give the path'),
        (['page.pth'], 'it is a web page'),
        ([HEAD], 'name the model that it belongs to'),
        ([HEAD, '--model', 'minigpt-5'], "'minigpt-5' is no model of the hub"),
        (['.', '--delta', 'x'], 'base . has no config.json'),
        (['.'], 'holds no .*safetensors'),
    ],
)
def test_errors_are_one_sentence(
    tmp_path, capsys, monkeypatch, arguments, sentence
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'page.pth').write_text('<html>Quota exceeded</html>')
    assert main([*arguments, '-o', 'out.pth']) == 1
    said = capsys.readouterr().err
    assert said.startswith('error: ')
    assert re.search(sentence, said)
    assert said.count('\n') == 1
    assert os.listdir() == ['page.pth']


def test_stopped_conversion_leaves_no_file(tmp_path, capsys, monkeypatch):
    def stopped(*_):
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(os, 'replace', stopped)
    out = tmp_path / 'a.pth'
    assert main([HEAD, '-o', str(out), '--model', NANO]) == 143
    assert 'stopped by SIGTERM; no unfin' in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_debug_prints_the_traceback(tmp_path, capsys):
    arguments = ['gone.pth', '-o', str(tmp_path / 'a.pth')]
    assert main(arguments) == 1
    assert 'Traceback' not in capsys.readouterr().err
    assert main([*arguments, '--debug']) == 1
    assert 'Traceback' in capsys.readouterr().err


@pytest.mark.parametrize(
    'text, reason',
    [
        ('x = 1', 'it has no model'),
        ('model = 3', 'TypeError'),
        ('model = dict(a=1)', 'KeyError'),
        (
            "model = dict(backbone=dict(type='minigpt4.EVAViT', no=1))",
            'TypeError|KeyError',
        ),
        ("raise RuntimeError('no such thing')", 'no such thing'),
    ],
)
def test_config_without_a_model_is_refused(text, reason, tmp_path, capsys):
    path = tmp_path / 'bad.py'
    path.write_text(text + '\n')
    out = str(tmp_path / 'out')
    for arguments in (
        [HEAD, '-o', f'{out}.pth', '--model', str(path)],
        [str(path), '-o', out, '--to', 'huggingface'],
    ):
        assert main(arguments) == 1
        said = capsys.readouterr().err
        assert said.count('\n') == 1 and str(path) in said
        assert 'not an expected error' not in said
        assert re.search(reason + '|AttributeError', said)
    assert os.listdir(tmp_path) == ['bad.py']


def test_output_below_a_file_is_refused(tmp_path, capsys):
    (tmp_path / 'file').touch()
    out = str(tmp_path / 'file/a.pth')
    assert main([HEAD, '-o', out, '--model', NANO]) == 1
    assert f'{tmp_path / "file"} is a file, but' in capsys.readouterr().err


def test_lora_is_exported(tmp_path, capsys):
    pytest.importorskip('peft', reason='LoRA needs peft')
    state = torch.load(SHIPPED / 'minigpt4_nano.pth')['state_dict']
    for i in range(4):
        for name in ('q_proj', 'v_proj'):
            layer = f'decoder.llm.model.layers.{i}.self_attn.{name}'
            state[f'{layer}.lora_A.default.weight'] = torch.ones(8, 192)
            state[f'{layer}.lora_B.default.weight'] = torch.ones(192, 8)
    torch.save(state, tmp_path / 'lora.pth')
    config = 'configs/minigpt4/stage2_nano_finetune_vicuna.py'
    checkpoint = str(tmp_path / 'lora.pth')
    for target in ('merged', 'peft'):
        out = str(tmp_path / target)
        arguments = [config, '--checkpoint', checkpoint, '-o', out]
        assert main([*arguments, '--to', target]) == 0
        assert '8 tensors matched' in capsys.readouterr().out
    name = 'model.layers.3.self_attn.v_proj.weight'
    before = load_file(SHIPPED / 'llm/model.safetensors')[name]
    after = load_file(tmp_path / 'merged/llm/model.safetensors')[name]
    # the sum of 8 ranks times the scale 16 / 8, in fp16
    assert torch.equal(after, (before.float() + 16).half())
    assert {path.name for path in (tmp_path / 'peft/adapter').iterdir()} >= {
        'adapter_config.json',
        'adapter_model.safetensors',
    }
    plain = ['configs/minigpt4/stage2_nano.py', '--checkpoint', checkpoint]
    assert main([*plain, '-o', str(tmp_path / 'x'), '--to', 'peft']) == 1
    assert 'has no decoder.lora' in capsys.readouterr().err
