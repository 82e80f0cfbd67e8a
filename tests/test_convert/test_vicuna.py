# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Vicuna is LLaMA plus a delta, added in fp16."""

import os
import shutil

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from minigpt4.convert.vicuna import merge_delta
from minigpt4.weights.read import LazyTensor, open_tensors
from minigpt4.weights.write import write_sharded

SIZES = dict(
    model_type='llama',
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    tie_word_embeddings=False,
)


def save(folder, tensors, vocab_size, shard_bytes=5 * 10**9):
    folder.mkdir()
    AutoConfig.for_model(**SIZES, vocab_size=vocab_size).save_pretrained(
        folder
    )
    write_sharded(
        folder,
        {name: LazyTensor.of(t) for name, t in tensors.items()},
        shard_bytes,
    )
    return folder


def random_llm(seed, vocab_size, std):
    config = AutoConfig.for_model(
        **SIZES, vocab_size=vocab_size, initializer_range=std
    )
    torch.manual_seed(seed)
    state = AutoModelForCausalLM.from_config(config).state_dict()
    norms = {n: t * std for n, t in state.items() if 'norm' in n}
    return {n: t.half() for n, t in {**state, **norms}.items()}


@pytest.fixture
def llama(tmp_path):
    return save(tmp_path / 'llama', random_llm(0, 40, 0.1), 40)


@pytest.fixture
def delta(tmp_path):
    """A delta in shards, with a row for ``[PAD]`` and a buffer."""
    tensors = random_llm(1, 41, 0.01)
    buffer = 'model.layers.0.self_attn.rotary_emb.inv_freq'
    folder = save(
        tmp_path / 'delta', {**tensors, buffer: torch.ones(4)}, 41, 2000
    )
    (folder / 'tokenizer.model').write_bytes(b'pieces')
    return folder


def test_sum(tmp_path, llama, delta):
    report = merge_delta(llama, delta, tmp_path / 'vicuna')
    merged = open_tensors(tmp_path / 'vicuna')
    base, moves = open_tensors(llama), open_tensors(delta)
    assert report.merged == len(merged) == len(base)
    assert report.added_rows == 1
    assert report.buffers == 1
    for name, tensor in merged.items():
        want = moves[name].read().clone()
        want[: base[name].shape[0]] += base[name].read()
        assert torch.equal(tensor.read(), want), name
    assert torch.equal(
        merged['lm_head.weight'].read()[40], moves['lm_head.weight'].read()[40]
    )
    assert (tmp_path / 'vicuna' / 'tokenizer.model').read_bytes() == b'pieces'
    llm = AutoModelForCausalLM.from_pretrained(tmp_path / 'vicuna')
    assert llm.config.vocab_size == 41


def test_checksum_is_of_the_weights(tmp_path, llama, delta):
    first = merge_delta(llama, delta, tmp_path / 'a')
    assert first.sha256 in str(first) and len(first.sha256) == 64
    # other shards, the same weights
    tensors = {n: t.read() for n, t in open_tensors(delta).items()}
    whole = save(tmp_path / 'whole', tensors, 41)
    assert merge_delta(llama, whole, tmp_path / 'b').sha256 == first.sha256
    tensors['lm_head.weight'][0, 0] += 1
    other = save(tmp_path / 'other', tensors, 41)
    assert merge_delta(llama, other, tmp_path / 'c').sha256 != first.sha256


def test_complete_weights_are_no_delta(tmp_path, llama, delta):
    merge_delta(llama, delta, tmp_path / 'vicuna')
    with pytest.raises(ValueError, match='vicuna is no delta: .* no merging'):
        merge_delta(llama, tmp_path / 'vicuna', tmp_path / 'twice')
    assert not (tmp_path / 'twice').exists()


def test_base_and_delta_of_different_models_are_refused(
    tmp_path, llama, delta
):
    wide = {
        n: torch.ones(t.shape[0], *(2 * s for s in t.shape[1:])).half()
        for n, t in open_tensors(llama).items()
    }
    deep = {
        n.replace('layers.1.', 'layers.2.'): t.read()
        for n, t in open_tensors(llama).items()
    }
    for tensors, sentence in (
        (wide, r'in the base .* but .* in the delta .*base of the same size'),
        (deep, r'differ in \d+ names of tensors, e.g. model.layers.1'),
    ):
        base = save(tmp_path / 'base', tensors, 40)
        with pytest.raises(ValueError, match=sentence):
            merge_delta(base, delta, tmp_path / 'out')
        shutil.rmtree(base)
    other = save(tmp_path / 'other', {'wte.weight': torch.ones(40, 16)}, 40)
    with pytest.raises(ValueError, match='no tensor mlp.up_proj.* no LLaMA'):
        merge_delta(other, other, tmp_path / 'out')
    # the base may not have more tokens than the delta
    with pytest.raises(ValueError, match=r'is \(41, 16\) in the base'):
        merge_delta(delta, llama, tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_missing_files_are_named(tmp_path, llama, delta):
    with pytest.raises(FileNotFoundError, match='base .* has no config.json'):
        merge_delta(tmp_path / 'nothing', delta, tmp_path / 'out')
    (delta / 'config.json').unlink()
    with pytest.raises(FileNotFoundError, match='delta .* has no config.json'):
        merge_delta(llama, delta, tmp_path / 'out')


def test_existing_folder_is_not_overwritten(tmp_path, llama, delta):
    with pytest.raises(FileExistsError, match='not empty; give another name'):
        merge_delta(llama, delta, llama)
    assert 'model.safetensors' in os.listdir(llama)
    assert not list(tmp_path.glob('.*part'))
