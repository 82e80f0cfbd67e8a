# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""An LLM folder is refused if it is unsafe or incomplete."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from minigpt4.llm.load import load_tokenizer
from minigpt4.models import LLMDecoder
from minigpt4.weights import file_errors
from minigpt4.weights.check_llm_folder import check_folder, find_faults
from minigpt4.weights.read import open_tensors

POINTER = (
    b'version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 343\n'
)
PAGE = b'\n<!DOCTYPE html><html>Login</html>'


@pytest.fixture
def llm(tiny_llm_dir, tmp_path) -> Path:
    """A copy of a complete folder, for a test to damage."""
    return Path(shutil.copytree(tiny_llm_dir, tmp_path / 'llm'))


def change(path: Path, **settings) -> None:
    """Change settings of a JSON file."""
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**content, **settings}))


def refusal(folder: Path, weights: bool = True) -> str:
    """Check that a folder is refused; return the message."""
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        check_folder(folder, weights)
    sentence = str(error.value)
    assert '\n' not in sentence and sentence.endswith('.')
    return sentence


def test_complete_folder_has_no_fault(llm):
    assert list(find_faults(llm)) == []


@pytest.mark.parametrize(
    ('file', 'settings'),
    [
        ('config.json', dict(auto_map={'AutoConfig': 'evil.C'})),
        ('config.json', dict(auto_map={'AutoModel': 'org/name--evil.M'})),
        (
            'config.json',
            dict(text_config=dict(auto_map={'AutoConfig': 'a.B'})),
        ),
        ('tokenizer_config.json', dict(auto_map={'AutoTokenizer': ['e.T']})),
        ('processor_config.json', dict(auto_map={'AutoProcessor': 'e.P'})),
        ('preprocessor_config.json', dict(auto_map={'AutoProcessor': 'e.P'})),
        ('generation_config.json', dict(custom_generate='org/name')),
        ('config.json', dict(attn_implementation='org/kernel')),
        ('config.json', dict(_attn_implementation='org/kernel@v1:forward')),
        ('config.json', dict(attn_implementation='paged|org/kernel')),
        ('config.json', dict(attn_implementation={'': 'org/kernel'})),
        ('config.json', dict(use_kernels=True)),
        ('config.json', dict(kernel_config={'RMSNorm': 'org/kernel:Norm'})),
    ],
)
def test_folder_that_names_code_is_refused(llm, file, settings):
    """huggingface/transformers: auto_map, custom_generate, kernels."""
    change(llm / file, **settings)
    sentence = refusal(llm, weights=False)
    assert str(llm / file) in sentence and 'is never run' in sentence


def test_code_is_refused_before_transformers_asks(llm, monkeypatch, tmp_path):
    ran = tmp_path / 'ran'
    (llm / 'evil.py').write_text(
        f'open({str(ran)!r}, "w")\n'
        'from transformers import LlamaConfig as C, LlamaForCausalLM as M\n'
    )
    change(
        llm / 'config.json',
        model_type='evil',
        auto_map={'AutoConfig': 'evil.C', 'AutoModelForCausalLM': 'evil.M'},
    )
    monkeypatch.setattr('builtins.input', lambda *_: 'y')
    for load in (LLMDecoder, load_tokenizer):
        with pytest.raises(ValueError, match='names code to run'):
            load(str(llm))
    assert not ran.exists()


def test_settings_of_transformers_are_no_code(llm):
    change(
        llm / 'config.json',
        attn_implementation='flash_attention_2',
        _attn_implementation=None,
        use_kernels=False,
        auto_map={},
    )
    assert list(find_faults(llm)) == []


def test_generation_code_and_adapters_are_refused(llm):
    (llm / 'custom_generate').mkdir()
    assert 'custom_generate holds code' in refusal(llm)
    (llm / 'custom_generate').rmdir()
    (llm / 'adapter_config.json').write_text(
        '{"base_model_name_or_path": "org/other"}'
    )
    assert 'an adapter (LoRA) on another LLM' in refusal(llm)


@pytest.mark.parametrize(
    'file', ['config.json', 'tokenizer.model', 'model.safetensors']
)
@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (POINTER, 'is a Git LFS pointer, not the file; run "git lfs pull"'),
        (PAGE, 'is a web page'),
        (b'', 'is empty; download it again'),
        (bytes(4096), 'begins with zeros'),
    ],
)
def test_wrong_file_contents_are_reported(llm, file, content, message):
    """huggingface/transformers #27923, microsoft/OmniParser #34."""
    (llm / file).write_bytes(content)
    sentence = refusal(llm)
    assert f'{llm / file} ' in sentence and message in sentence


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('{"model_type": "llama"', 'is no JSON'),
        ('[1]', 'holds a list; expected an object'),
        ('\ufeff{}', 'begins with a byte order mark'),
        ('{"a":' * 100000, 'is nested too deeply'),
    ],
)
def test_config_that_is_no_json_object_is_reported(llm, text, message):
    (llm / 'config.json').write_text(text, encoding='utf-8')
    assert message in refusal(llm)


@pytest.mark.parametrize(
    ('setting', 'value'),
    [
        ('hidden_size', '32'),
        ('hidden_size', -1),
        ('num_hidden_layers', 10**7),
        ('num_attention_heads', True),
        ('vocab_size', None),
        ('vocab_size', 2**40),
        ('model_type', 5),
    ],
)
def test_settings_of_wrong_type_or_size_are_reported(llm, setting, value):
    change(llm / 'config.json', **{setting: value})
    assert f'config.json has {setting} ' in refusal(llm)


def test_missing_files_are_reported(llm):
    weights = (llm / 'model.safetensors').read_bytes()
    (llm / 'model.safetensors').unlink()
    assert 'no weights (*.safetensors' in refusal(llm)
    (llm / 'model-00001.incomplete').write_bytes(b'x')
    assert 'interrupted download left model-00001.inc' in refusal(llm)
    (llm / 'model-00001-of-00002.safetensors').write_bytes(weights)
    assert 'no index of shards' in refusal(llm)
    for path in llm.glob('tokenizer*'):
        path.unlink()
    assert 'has no tokenizer' in refusal(llm, weights=False)
    (llm / 'config.json').unlink()
    assert 'has no config.json' in refusal(llm, weights=False)


def test_shards(llm):
    file = llm / 'model.safetensors'
    file.rename(llm / 'a.safetensors')
    index = llm / 'model.safetensors.index.json'
    index.write_text('{"weight_map": {"x": "a.safetensors"}}')
    assert list(find_faults(llm)) == []
    change(index, weight_map={'x': 'a.safetensors', 'y': 'b.safetensors'})
    assert 'lacks 1 of its 2 weight files, e.g. b.saf' in refusal(llm)
    for name in ('../a.safetensors', '/etc/passwd', 'sub/a.safetensors', '..'):
        change(index, weight_map={'x': name})
        assert 'which is not in its folder' in refusal(llm)
    for places in (None, [], {'x': 5}, {'x': ''}):
        change(index, weight_map=places)
        assert 'is no index of shards' in refusal(llm)


def test_damaged_safetensors_are_reported(llm):
    file = llm / 'model.safetensors'
    whole = file.read_bytes()
    for damaged in (
        whole[:-1],
        whole + b'x',
        whole[:100],
        whole[:4],
        b'\xff' * 8 + whole[8:],
        whole.replace(b'"F32"', b'"F16"', 1),
        whole.replace(b'"shape":[', b'"shape":[7,', 1),
    ):
        file.write_bytes(damaged)
        assert str(file) in refusal(llm)
        assert file_errors.safetensors_error(file) is not None
    file.write_bytes(whole)
    assert file_errors.safetensors_error(file) is None


@pytest.mark.parametrize(
    'name',
    ['config.json', 'tokenizer.model', 'model.safetensors', 'chat.jinja'],
)
def test_fifos_and_devices_are_refused(llm, name):
    (llm / name).unlink(missing_ok=True)
    os.mkfifo(llm / name)
    assert f'{llm / name} is a FIFO' in refusal(llm)
    (llm / name).unlink()
    (llm / name).symlink_to('/dev/zero')
    assert f'{llm / name} is a FIFO, a device' in refusal(llm)
    (llm / name).unlink()
    (llm / name).mkdir()
    assert f'{llm / name} is a folder; expected a file' in refusal(llm)
    (llm / name).rmdir()
    (llm / name).symlink_to('../blobs/missing')
    assert 'is a link to a file that does not exist' in refusal(llm)


def test_file_instead_of_the_folder_is_refused(llm):
    assert 'is no folder' in refusal(llm / 'config.json')


@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        (
            lambda d: change(d / 'config.json', model_type='newer'),
            'no config that transformers .* reads',
        ),
        (
            lambda d: change(d / 'config.json', hidden_size=64),
            'weights of the LLM .* have another size',
        ),
        (
            lambda d: (d / 'tokenizer.model').write_bytes(
                (d / 'tokenizer.model').read_bytes()[:999]
            ),
            'tokenizer.model .* is no SentencePiece model',
        ),
    ],
)
def test_errors_of_transformers_are_one_sentence(llm, damage, message):
    damage(llm)
    with pytest.raises(ValueError, match=message) as error:
        LLMDecoder(str(llm))
    assert '\n' not in str(error.value)
    assert 'tiktoken' not in str(error.value)


def test_checks_run_without_the_package(llm):
    """``minigpt4 doctor`` uses them where torch does not import."""
    projects = Path(file_errors.__file__).resolve().parents[2]
    code = (
        'import sys\n'
        'sys.modules["torch"] = sys.modules["transformers"] = None\n'
        f'sys.path.insert(0, {str(projects)!r})\n'
        'from minigpt4_cli.doctor_report import Report\n'
        'from minigpt4_cli.doctor_weights import check_llm\n'
        'report = Report(); check_llm(report); print(report.faults)\n'
        'assert "minigpt4" not in sys.modules\n'
    )
    (llm / 'model.safetensors').write_bytes(POINTER)
    found = subprocess.run(
        [sys.executable, '-c', code],
        env={**os.environ, 'MINIGPT4_LLM': str(llm)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert 'model.safetensors is a Git LFS pointer' in found
    assert f'git -C {llm} lfs pull' in found


def test_every_auto_class_call_forbids_remote_code():
    """Each call has ``trust_remote_code=False``."""
    root = Path(file_errors.__file__).parents[1]
    calls = 0
    for path in root.rglob('*.py'):
        parts = path.read_text('utf-8').split('Auto')[1:]
        for text in parts:
            if (
                '.from_pretrained(' in text[:60]
                or '.from_config(' in text[:60]
            ):
                calls += 1
                assert 'trust_remote_code=False' in text[:300], path
    assert calls >= 2


def test_sizes_of_config_and_weights_must_agree(llm):
    """Chinese-LLaMA-Alpaca #87, FastChat #153: 32,000 and 32,001 rows."""
    rows = json.loads((llm / 'config.json').read_text())['vocab_size']
    change(llm / 'config.json', vocab_size=rows + 1)
    with pytest.raises(ValueError, match='another size than') as error:
        LLMDecoder(str(llm))
    assert 'embed_tokens' in str(error.value) or 'lm_head' in str(error.value)
    assert f'({rows}, 32) in the weights' in str(error.value)


def test_begin_token_outside_the_vocabulary_is_not_used(llm):
    change(llm / 'tokenizer_config.json', bos_token='[BOS]')
    assert LLMDecoder(str(llm)).tokenizer.bos_token == '<s>'


def test_index_without_shards_is_ignored(llm):
    """llama2-webui #7: the indices of two formats, the shards of one."""
    tensors = load_file(llm / 'model.safetensors')
    (llm / 'model.safetensors').unlink()
    torch.save(tensors, llm / 'pytorch_model-1.bin')
    for name, shard in (
        ('model.safetensors', 'model-1.safetensors'),
        ('pytorch_model.bin', 'pytorch_model-1.bin'),
    ):
        (llm / f'{name}.index.json').write_text(
            json.dumps(
                dict(metadata={}, weight_map=dict.fromkeys(tensors, shard))
            )
        )
    assert list(find_faults(llm)) == []
    assert set(open_tensors(llm)) == set(tensors)
    table = LLMDecoder(str(llm)).llm.get_input_embeddings().weight
    assert torch.equal(table, tensors['model.embed_tokens.weight'])
    (llm / 'pytorch_model-1.bin').unlink()
    assert 'lacks 1 of its 1 weight files' in refusal(llm)
