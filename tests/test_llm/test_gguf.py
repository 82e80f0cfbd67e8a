# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""GGUF files become Hugging Face folders, once."""

import json
import multiprocessing
import os
import resource
import shutil
import time
from pathlib import Path

import pytest
import torch
from tests.file_server import files_in
from tests.gguf_files import random_llm, write_gguf
from transformers import AutoModelForCausalLM

from minigpt4.compat import dtype_argument
from minigpt4.llm import gguf
from minigpt4.llm.gguf import RECORD, gguf_folder
from minigpt4.llm.load import load_llm, load_tokenizer
from minigpt4.llm.locate import locate_llm
from minigpt4.models.decoder import LLMDecoder

IDS = torch.tensor([[1, 100, 42, 259, 7, 2, 30, 31]])


def logits(llm) -> torch.Tensor:
    with torch.no_grad():
        return llm(IDS).logits


@pytest.fixture
def file(tmp_path, cache) -> Path:
    return write_gguf(tmp_path / 'llm.gguf')


@pytest.mark.parametrize(
    ('architecture', 'kind', 'tied'),
    [
        *(('llama', kind, True) for kind in ('Q4_1', 'Q8_0', 'F16')),
        *(('llama', kind, False) for kind in ('BF16', 'F32')),
        *(('qwen2', 'Q8_0', True), ('qwen3', 'Q4_1', False)),
    ],
)
def test_llm_computes_with_the_values_of_the_file(
    tmp_path, cache, architecture, kind, tied
):
    llm = random_llm(architecture, tied)
    path = write_gguf(tmp_path / 'a.gguf', llm, architecture, kind)
    loaded = load_llm(str(gguf_folder(path)), dtype='float32')
    expected = dict(BF16='bfloat16', F32='float32').get(kind, 'float16')
    config = json.loads((gguf_folder(path) / 'config.json').read_text())
    assert config['torch_dtype'] == expected
    tolerance = dict(float32=1e-5, float16=0.02, bfloat16=0.08)[expected]
    difference = (logits(loaded) - logits(llm)).abs().max()
    assert difference < tolerance < 0.05 * logits(llm).std()
    assert loaded.config.tie_word_embeddings is tied


# qwen3: transformers 5.17 does not read the width of its heads
@pytest.mark.parametrize('architecture', ['llama', 'qwen2'])
def test_llm_is_that_of_transformers(tmp_path, cache, architecture):
    path = write_gguf(
        tmp_path / 'a.gguf', random_llm(architecture), architecture
    )
    theirs = AutoModelForCausalLM.from_pretrained(
        str(tmp_path), gguf_file='a.gguf', **dtype_argument(torch.float32)
    )
    ours = load_llm(str(gguf_folder(path)), dtype='float32')
    torch.testing.assert_close(
        logits(ours), logits(theirs), atol=1e-2, rtol=1e-3
    )


def test_decoder_takes_a_gguf_file(file, monkeypatch):
    decoder = LLMDecoder(str(file))
    assert decoder.llm.config.hidden_size == 64
    assert decoder.tokenizer.eos_token == '<|im_end|>'
    monkeypatch.setenv('MINIGPT4_LLM', str(file))
    assert locate_llm('org/name') == str(gguf_folder(file))


def test_generation_config_has_all_end_tokens(tmp_path, cache):
    path = write_gguf(
        tmp_path / 'a.gguf', change=lambda w: w.add_eot_token_id(0)
    )
    config = json.loads(
        (gguf_folder(path) / 'generation_config.json').read_text()
    )
    assert config == dict(bos_token_id=1, eos_token_id=[2, 0], pad_token_id=2)


def test_second_use_neither_converts_nor_writes(file, cache, monkeypatch):
    folder = gguf_folder(file)
    record = json.loads((folder / RECORD).read_text())
    assert record['file'] == 'llm.gguf'
    assert record['size'] == file.stat().st_size
    before = {p: p.stat().st_mtime_ns for p in cache.rglob('*')}
    monkeypatch.setattr('minigpt4.llm.gguf.read_header', pytest.fail)
    assert gguf_folder(file) == folder
    assert {p: p.stat().st_mtime_ns for p in cache.rglob('*')} == before


@pytest.mark.parametrize('damage', ['truncate', 'change', 'remove'])
def test_a_damaged_folder_is_converted_again(file, cache, damage):
    weights = gguf_folder(file) / 'model.safetensors'
    content = weights.read_bytes()
    if damage == 'truncate':
        weights.write_bytes(content[:-100])
    elif damage == 'change':
        weights.write_bytes(content[:-4] + b'\1\1\1\1')
        os.utime(weights, ns=(1, 1))
    else:
        weights.unlink()
    assert gguf_folder(file) / 'model.safetensors' == weights
    assert weights.read_bytes() == content


def test_changed_file_is_another_llm(file, cache):
    first = gguf_folder(file)
    write_gguf(file, random_llm(initializer_range=0.1))
    second = gguf_folder(file)
    assert second != first
    copy = shutil.copy(file, file.with_name('copy.gguf'))
    assert gguf_folder(Path(copy)).name.startswith('copy-')


def llama3_factors(length: int = 8192):
    """The factors of the rotary frequencies in files of Llama 3.2."""
    inverse = 1 / 100000.0 ** (torch.arange(0, 16, 2) / 16)
    wavelengths = 2 * torch.pi / inverse
    smooth = ((length / wavelengths - 1) / 3).clamp(0, 1)
    return (1 / ((1 - smooth) / 32 + smooth)).numpy().astype('float32')


def test_frequencies_of_llama_3(tmp_path, cache):
    rope = dict(
        rope_type='llama3',
        factor=32.0,
        low_freq_factor=1.0,
        high_freq_factor=4.0,
        original_max_position_embeddings=8192,
    )
    llm = random_llm(rope_scaling=rope)
    path = write_gguf(
        tmp_path / 'a.gguf',
        llm,
        change=lambda w: w.add_tensor('rope_freqs.weight', llama3_factors()),
    )
    loaded = load_llm(str(gguf_folder(path)), dtype='float32')
    torch.testing.assert_close(
        loaded.model.rotary_emb.inv_freq, llm.model.rotary_emb.inv_freq
    )
    assert logits(loaded).sub(logits(llm)).abs().max() < 1e-2
    path = write_gguf(
        tmp_path / 'b.gguf',
        change=lambda w: w.add_tensor(
            'rope_freqs.weight', llama3_factors(4096)
        ),
    )
    with pytest.raises(ValueError, match='not those of Llama 3'):
        gguf_folder(path)


def without(key: str):
    def change(writer):
        writer.kv_data[0].pop(key)

    return change


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(architecture='mamba'), "architecture 'mamba'.*llama, qwen2"),
        (dict(architecture='clip'), 'mmproj'),
        (dict(change=lambda w: w.add_type('adapter')), "type 'adapter'"),
        (dict(tokenizer=False), 'has no tokenizer'),
        (dict(pre='viking'), "rule 'viking'.*smollm, gpt-2"),
        (dict(change=lambda w: w.add_expert_count(8)), 'with experts'),
        (dict(change=without('llama.block_count')), 'nothing as llama.block'),
        (
            dict(change=lambda w: w.add_rope_scaling_type(SCALING)),
            "'longrope' as llama.rope.scaling.type",
        ),
        (
            dict(architecture='qwen2'),
            'lacks .* tensors of the LLM, e.g. model.layers.0.self_attn',
        ),
        (dict(kind='Q8_0', extra='blk.0.ffn_gate_inp.weight'), 'ffn_gate_inp'),
    ],
)
def test_unsupported_files_are_refused(tmp_path, cache, arguments, message):
    extra = arguments.get('extra')
    if extra is not None:
        vector = torch.ones(64).numpy()
        arguments = dict(change=lambda w: w.add_tensor(extra, vector))
    path = write_gguf(tmp_path / 'a.gguf', **arguments)
    with pytest.raises(ValueError, match=message) as error:
        load_llm(locate_llm(str(path)))
    assert '\n' not in str(error.value)


class SCALING:
    value = 'longrope'


def test_package_is_named_if_it_is_missing(file, monkeypatch):
    monkeypatch.setattr('minigpt4.llm.gguf.find_spec', lambda _: None)
    with pytest.raises(ImportError, match=r'minigpt4\[small\]'):
        gguf_folder(file)


def test_folder_with_a_gguf_file_names_the_file(file):
    with pytest.raises(FileNotFoundError, match='give that file, .*llm.gguf'):
        load_llm(locate_llm(str(file.parent)))


def test_full_disk_leaves_nothing(file, cache, monkeypatch):
    usage = shutil.disk_usage('.')._replace(free=1000)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, 'disk_usage', lambda _: usage)
        with pytest.raises(OSError, match='needed, 1.0 kB free'):
            gguf_folder(file)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError, match='no space for.*MINIGPT4_CACHE'):
            gguf_folder(file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert files_in(cache / 'gguf') == set()
    assert (gguf_folder(file) / RECORD).is_file()


def test_folder_that_cannot_be_written(file, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, 'Permission denied')

    monkeypatch.setattr('minigpt4.llm.gguf.write_sharded', refuse)
    with pytest.raises(PermissionError, match='another folder in MINIGPT4_C'):
        gguf_folder(file)


def start(convert, *arguments) -> multiprocessing.Process:
    """Run a function in a fork of this process."""
    process = multiprocessing.get_context('fork').Process(
        target=convert, args=arguments
    )
    process.start()
    return process


def convert_slowly(file: Path, flag: Path) -> None:
    """Convert a file, but wait before the weights are written."""

    def wait(*_, **__):
        flag.touch()
        time.sleep(300)

    gguf.write_sharded = wait
    gguf_folder(file)


def test_conversion_can_be_killed_and_repeated(file, cache, tmp_path):
    process = start(convert_slowly, file, tmp_path / 'writing')
    deadline = time.monotonic() + 300
    while not (tmp_path / 'writing').exists():
        assert process.is_alive() and time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.join()
    assert any(p.suffix == '.part' for p in (cache / 'gguf').iterdir())
    folder = gguf_folder(file)
    assert load_llm(str(folder), dtype='float32').config.hidden_size == 64
    assert [p for p in (cache / 'gguf').iterdir() if p.is_dir()] == [folder]


def convert_and_note(file: Path, notes: Path) -> None:
    """Convert a file, and add a line to another one when weights are read."""
    write = gguf.write_sharded

    def write_and_note(*arguments, **settings):
        with open(notes, 'a') as note:
            note.write('weights written\n')
        time.sleep(0.5)
        write(*arguments, **settings)

    gguf.write_sharded = write_and_note
    with open(notes, 'a') as note:
        note.write(f'{gguf_folder(file)}\n')


def test_of_two_processes_one_converts(file, tmp_path):
    notes = tmp_path / 'notes'
    processes = [start(convert_and_note, file, notes) for _ in range(2)]
    for process in processes:
        process.join(300)
        assert process.exitcode == 0
    folder = str(gguf_folder(file))
    assert notes.read_text().splitlines() == [
        *('weights written', folder, folder)
    ]


@pytest.mark.slow
def test_small_llm_answers(small_parts, small_cache):
    location = locate_llm(str(small_parts.llm))
    tokenizer = load_tokenizer(location)
    # the ids of the published tokenizer
    assert tokenizer.encode('Hello world') == [19556, 905]
    assert tokenizer.convert_ids_to_tokens(tokenizer.encode(' in 2024')) == [
        *('Ġin', 'Ġ', '2', '0', '2', '4')
    ]
    prompt = tokenizer.apply_chat_template(
        [dict(role='user', content='What is the capital of France?')],
        add_generation_prompt=True,
        tokenize=False,
    )
    tokenizer.split_special_tokens = False
    ids = tokenizer(prompt, return_tensors='pt').input_ids
    tokenizer.split_special_tokens = True
    assert ids[0, :3].tolist() == [1, 9690, 198]  # no begin token before it
    llm = load_llm(location, dtype='float32')
    with torch.no_grad():
        answer = llm.generate(
            ids, max_new_tokens=12, do_sample=False, eos_token_id=2
        )
    text = tokenizer.decode(answer[0, ids.shape[1] :])
    assert text == 'The capital of France is Paris.<|im_end|>'
