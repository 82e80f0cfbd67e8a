# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Causal LMs are located, checked and run by their public interface."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from minigpt4.llm.fingerprint import decode_fingerprint, encode_fingerprint
from minigpt4.llm.load import load_tokenizer
from minigpt4.llm.locate import locate_llm
from minigpt4.models import LLMDecoder

SMALL = dict(vocab_size=400, hidden_size=32, num_hidden_layers=2)
FAMILIES = {
    'llama': dict(
        SMALL,
        intermediate_size=48,
        num_attention_heads=4,
        num_key_value_heads=2,
    ),
    'mistral': dict(
        SMALL,
        intermediate_size=48,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=4,
    ),
    'qwen2': dict(
        SMALL,
        intermediate_size=48,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    ),
    'gpt_neox': dict(SMALL, intermediate_size=48, num_attention_heads=4),
    'opt': dict(
        SMALL,
        ffn_dim=48,
        num_attention_heads=4,
        word_embed_proj_dim=24,
        do_layer_norm_before=False,
        max_position_embeddings=64,
    ),
    'gpt2': dict(
        vocab_size=400, n_embd=32, n_layer=2, n_head=4, n_positions=64
    ),
}


@pytest.mark.parametrize('family', FAMILIES)
def test_logits_are_the_causal_lms_own(make_llm, family):
    folder = make_llm(model_type=family, **FAMILIES[family])
    decoder = LLMDecoder(str(folder), dtype='float32')
    for parameter in decoder.parameters():  # biases and norms matter, too
        parameter.data += torch.randn_like(parameter) * 0.1
    ids = torch.randint(3, 400, (2, 7))
    mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
    positions = torch.tensor([[*range(7)], [*range(4), 0, 0, 0]])
    with torch.no_grad():
        expected = decoder.llm(input_ids=ids, attention_mask=mask).logits
        alone = decoder.llm(input_ids=ids[1:, :4]).logits
        got = decoder.logits(
            decoder.hidden_states(decoder.embed_tokens(ids), mask, positions)
        )
    real = mask.bool()
    assert expected[real].std() > 0.05
    torch.testing.assert_close(got[real], expected[real], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(got[1:, :4], alone, atol=1e-5, rtol=1e-5)


def test_token_losses_are_those_of_the_target_positions(tiny_llm_dir):
    decoder = LLMDecoder(str(tiny_llm_dir), dtype='bfloat16')
    hidden = torch.randn(2, 5, 32).bfloat16()
    positions, targets = torch.tensor([1, 7, 9]), torch.tensor([3, 250, 4])
    losses = decoder.token_losses(hidden, positions, targets)
    assert losses.dtype == torch.float32
    logits = decoder.logits(hidden).flatten(0, 1).float()
    for got, position, target in zip(losses, positions, targets, strict=True):
        torch.testing.assert_close(
            got, -logits[position].log_softmax(0)[target], atol=1e-5, rtol=1e-4
        )


def test_full_size_on_meta():
    arch = dict(
        model_type='llama',
        hidden_size=4096,
        intermediate_size=11008,
        num_hidden_layers=32,
        num_attention_heads=32,
        vocab_size=32000,
    )
    with torch.device('meta'):
        decoder = LLMDecoder('Vision-CAIR/vicuna-7b', arch=arch)
    assert sum(p.numel() for p in decoder.parameters()) == 6_738_415_616
    assert (decoder.hidden_size, decoder.vocab_size) == (4096, 32000)
    assert not any(p.requires_grad for p in decoder.parameters())
    assert decoder.tokenizer is None
    with (
        torch.device('meta'),
        pytest.raises(
            ValueError, match='give its Hugging Face config as decoder.arch'
        ),
    ):
        LLMDecoder('Vision-CAIR/vicuna-7b')


def test_locate_llm_prefers_a_folder(tiny_llm_dir, monkeypatch, tmp_path):
    assert locate_llm(str(tiny_llm_dir)) == str(tiny_llm_dir)
    monkeypatch.setenv('MINIGPT4_LLM', str(tmp_path))
    assert locate_llm(str(tiny_llm_dir)) == str(tiny_llm_dir)
    assert locate_llm('Vision-CAIR/vicuna-7b') == str(tmp_path)


def test_locate_llm_of_a_hub(monkeypatch):
    assert locate_llm('Vision-CAIR/vicuna-7b') == 'Vision-CAIR/vicuna-7b'
    monkeypatch.setenv('MINIGPT4_LLM', 'lmsys/other')
    assert locate_llm('Vision-CAIR/vicuna-7b') == 'lmsys/other'
    monkeypatch.setenv('MINIGPT4_LLM', '/no/such/folder')
    with pytest.raises(
        FileNotFoundError,
        match="MINIGPT4_LLM, the LLM, '/no/such/folder' does not exist",
    ):
        locate_llm('Vision-CAIR/vicuna-7b')


@pytest.mark.parametrize('build', [LLMDecoder, load_tokenizer])
@pytest.mark.parametrize(
    'name, sentence',
    [
        (
            'YOUR_PATH_TO_VICUNA',
            "LLM is the placeholder 'YOUR_PATH_TO_VICUNA'",
        ),
        ('/no/such/vicuna', "LLM '/no/such/vicuna' does not exist"),
        ('org/no-such-name', 'could not be downloaded.*MINIGPT4_LLM'),
    ],
)
def test_a_missing_llm_is_refused(build, name, sentence):
    with pytest.raises(FileNotFoundError, match=sentence):
        build(name)


def test_a_folder_without_weights_is_refused(tmp_path, tiny_tokenizer_dir):
    shutil.copytree(tiny_tokenizer_dir, tmp_path / 'llm')
    with pytest.raises(
        FileNotFoundError,
        match='weights of the LLM .* cannot be loaded .*complete',
    ) as error:
        LLMDecoder(str(tmp_path / 'llm'))
    assert str(tmp_path) in str(error.value)
    assert '\n' not in str(error.value)


def test_arch_must_match(tiny_llm_dir):
    with pytest.raises(
        ValueError, match='has hidden_size 32, but the config expects 4096'
    ):
        LLMDecoder(str(tiny_llm_dir), arch=dict(hidden_size=4096))
    with pytest.raises(ValueError, match='has model_type llama, but'):
        LLMDecoder(str(tiny_llm_dir), arch=dict(model_type='opt'))
    arch = dict(model_type='llama', hidden_size=32, num_hidden_layers=2)
    assert LLMDecoder(str(tiny_llm_dir), arch=arch).hidden_size == 32


def test_a_missing_tensor_is_refused(tiny_llm_dir, tmp_path):
    folder = tmp_path / 'llm'
    shutil.copytree(tiny_llm_dir, folder)
    tensors = load_file(folder / 'model.safetensors')
    gone = 'model.layers.1.mlp.up_proj.weight'
    del tensors[gone]
    save_file(tensors, folder / 'model.safetensors', metadata={'format': 'pt'})
    with pytest.raises(ValueError, match=f'lacks 1 tensors .*e.g. {gone}'):
        LLMDecoder(str(folder))


def test_scaled_logits_are_refused():
    arch = dict(
        model_type='gemma2',
        vocab_size=50,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
    )
    with torch.device('meta'):
        with pytest.raises(ValueError, match='final_logit_softcapping'):
            LLMDecoder('google/gemma-2', arch=arch)
        LLMDecoder(
            'google/gemma-2', arch=dict(arch, final_logit_softcapping=None)
        )


def test_frozen_decoder_stays_in_eval(tiny_llm_dir):
    decoder = LLMDecoder(str(tiny_llm_dir))
    assert decoder.train() is decoder
    assert not any(m.training for m in decoder.llm.modules())
    assert not any(p.requires_grad for p in decoder.parameters())


def test_gradient_checkpointing_gives_the_same_gradient(tiny_llm_dir):
    gradients = []
    for checkpointing in (False, True):
        decoder = LLMDecoder(
            str(tiny_llm_dir),
            dtype='float32',
            gradient_checkpointing=checkpointing,
        ).train()
        assert decoder.llm.model.training == checkpointing
        torch.manual_seed(0)
        embeddings = torch.randn(1, 5, 32, requires_grad=True)
        mask = torch.ones(1, 5, dtype=torch.long)
        hidden = decoder.hidden_states(embeddings, mask, torch.arange(5)[None])
        hidden.square().sum().backward()
        gradients.append(embeddings.grad)
    assert gradients[0].abs().sum() > 0
    torch.testing.assert_close(*gradients)


def test_lora_trains_adapters_only(tiny_llm_dir):
    pytest.importorskip('peft', reason='LoRA needs peft')
    decoder = LLMDecoder(
        str(tiny_llm_dir),
        dtype='bfloat16',
        lora=dict(r=4, target_modules=['q_proj', 'v_proj']),
    )
    trained = [n for n, p in decoder.named_parameters() if p.requires_grad]
    assert len(trained) == 2 * 2 * 2
    assert all('lora' in name for name in trained)
    assert decoder.train().llm.training


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'float16'])
def test_dtype(tiny_llm_dir, dtype):
    decoder = LLMDecoder(str(tiny_llm_dir), dtype=dtype)
    assert {p.dtype for p in decoder.parameters()} == {getattr(torch, dtype)}


def test_fingerprint_survives_rounding_and_a_state_dict(tiny_llm_dir):
    full = LLMDecoder(str(tiny_llm_dir), dtype='float32')
    low = LLMDecoder(str(tiny_llm_dir), dtype='bfloat16')
    encoded = encode_fingerprint(full.fingerprint())
    assert encoded.dtype == torch.uint8
    decoded = decode_fingerprint(encoded)
    assert decoded == json.loads(json.dumps(full.fingerprint()))
    assert decoded['hidden_size'] == 32 and decoded['tokens']
    low.check_fingerprint(decoded)
    full.check_fingerprint(low.fingerprint())


def test_fingerprint_of_another_llm_is_refused(tiny_llm_dir, other_llm_dir):
    ours, other = (
        LLMDecoder(str(folder)) for folder in (tiny_llm_dir, other_llm_dir)
    )
    with pytest.raises(
        ValueError, match='but of another version .*model.check_llm=False'
    ):
        ours.check_fingerprint(other.fingerprint())
    theirs = ours.fingerprint()
    for key, value, sentence in (
        ('hidden_size', 5120, 'of hidden_size 5120, .* cannot be used'),
        ('vocab_size', 50257, 'vocab_size 50257, .*model.check_llm=False'),
        ('tokens', [1, 2], r'as \[1, 2\], .*model.check_llm=False'),
    ):
        with pytest.raises(ValueError, match=sentence) as error:
            ours.check_fingerprint({**theirs, key: value})
        overridable = 'check_llm' in str(error.value)
        assert overridable == (key != 'hidden_size')


def add_rows(folder: Path, to: Path, rows: int) -> Path:
    """A copy with more rows of vocabulary, as FastChat adds [PAD]."""
    from transformers import AutoModelForCausalLM

    llm = AutoModelForCausalLM.from_pretrained(folder)
    llm.resize_token_embeddings(llm.config.vocab_size + rows)
    shutil.copytree(folder, to)
    llm.save_pretrained(to)
    return to


def test_appended_rows_are_the_same_llm(tiny_llm_dir, tmp_path):
    """Vicuna v0 has 32,000 rows, or 32,001 where FastChat merged it."""
    plain = LLMDecoder(str(tiny_llm_dir))
    size = plain.vocab_size
    padded = LLMDecoder(
        str(add_rows(tiny_llm_dir, tmp_path / 'padded', 1)),
        arch=dict(vocab_size=size),
    )
    assert padded.vocab_size == size + 1
    plain.check_fingerprint(padded.fingerprint())
    padded.check_fingerprint(plain.fingerprint())

    other = add_rows(tiny_llm_dir, tmp_path / 'other', 65)
    with pytest.raises(ValueError, match=f'vocab_size {size + 65}, but the'):
        LLMDecoder(str(other), arch=dict(vocab_size=size))
    with pytest.raises(ValueError, match=f'vocab_size {size}, but'):
        LLMDecoder(str(other)).check_fingerprint(plain.fingerprint())
    with pytest.raises(ValueError, match=f'has vocab_size {size}, but the'):
        LLMDecoder(str(tiny_llm_dir), arch=dict(vocab_size=size + 1))


def test_sampling_settings_of_the_folder_are_not_used(tiny_llm_dir, tmp_path):
    """transformers would merge them with ours."""
    folder = tmp_path / 'llm'
    shutil.copytree(tiny_llm_dir, folder)
    theirs = dict(do_sample=True, repetition_penalty=7.0)
    (folder / 'generation_config.json').write_text(json.dumps(theirs))
    config = LLMDecoder(str(folder)).llm.generation_config
    assert not config.do_sample
    assert config.repetition_penalty != 7.0
