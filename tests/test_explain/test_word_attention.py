# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Attention of the LLM to image tokens."""

from types import SimpleNamespace

import pytest
import torch
from tests.conftest import LLAMA

from minigpt4.explain.answer import answer_greedily
from minigpt4.explain.word_attention import token_attention, word_attention
from minigpt4.explain.words import Word


def answered(model, make_sample):
    sample = make_sample([0], 'describe this image')
    answer = answer_greedily(model.eval(), sample, max_new_tokens=6)
    pixels = model.data_preprocessor.normalize(sample.images[0][None])
    with torch.no_grad():
        return answer, model.embed_images(pixels)


def test_without_queries_attention_is_even(family_model, make_sample):
    """Then a position attends to itself and each earlier one the same."""
    answer, tokens = answered(family_model, make_sample)
    with torch.no_grad():
        for name, parameter in family_model.decoder.llm.named_parameters():
            if 'q_proj' in name:
                parameter.zero_()
    attention = token_attention(family_model, answer.inputs, tokens)
    positions = answer.inputs.target_positions
    expected = 1 / (positions + 1.0)
    assert attention.shape == (len(positions), 3)
    assert torch.allclose(attention, expected[:, None].expand(-1, 3))
    config = family_model.decoder.llm.config
    assert config._attn_implementation == 'sdpa'


def test_attention_is_the_mean_over_heads_and_layers():
    first, second = torch.zeros(2, 1, 2, 4, 4)
    first[0, :, 3, 2] = torch.tensor([0.8, 0.4])
    second[0, :, 3, 2] = torch.tensor([0.2, 0.2])
    first[0, 0, 1, 0] = 1.0
    llm = SimpleNamespace(
        config=SimpleNamespace(_attn_implementation='sdpa'),
        base_model=lambda **_: SimpleNamespace(attentions=(first, second)),
    )
    decoder = SimpleNamespace(llm=llm, to_llm_device=lambda tensor: tensor)
    model = SimpleNamespace(decoder=decoder, embed_inputs=lambda *_: None)
    inputs = SimpleNamespace(
        attention_mask=None,
        position_ids=None,
        target_positions=torch.tensor([1, 3]),
        image_positions=torch.tensor([0, 2]),
    )
    attention = token_attention(model, inputs, None)
    assert torch.allclose(attention, torch.tensor([[0.25, 0], [0, 0.4]]))


def test_attention_of_other_architectures(build_tiny, make_llm, make_sample):
    folder = make_llm(
        model_type='gpt2', n_embd=32, n_layer=2, n_head=4, vocab_size=400
    )
    model = build_tiny(decoder=dict(name_or_path=str(folder)))
    answer, tokens = answered(model, make_sample)
    attention = token_attention(model, answer.inputs, tokens)
    assert (attention > 0).all() and (attention.sum(1) < 1).all()


def test_an_image_behind_a_sliding_window(
    build_tiny, make_llm, make_sample, tiny_tokenizer
):
    folder = make_llm(
        **LLAMA | dict(vocab_size=len(tiny_tokenizer), pad_token_id=0),
        model_type='mistral',
        sliding_window=4,
        num_key_value_heads=2,
    )
    model = build_tiny(decoder=dict(name_or_path=str(folder)))
    answer, tokens = answered(model, make_sample)
    attention = token_attention(model, answer.inputs, tokens)
    assert not attention.any()
    shares, total = word_attention(attention, answer.words)
    assert not shares.any() and not total.any()


def test_an_llm_without_attention_weights_is_named(
    tiny_model, make_sample, monkeypatch
):
    answer, tokens = answered(tiny_model, make_sample)
    llm = type(tiny_model.decoder.llm)
    result = SimpleNamespace(attentions=None)
    monkeypatch.setattr(
        llm, 'base_model', property(lambda _: lambda **__: result)
    )
    with pytest.raises(ValueError, match='does not return the weights'):
        token_attention(tiny_model, answer.inputs, tokens)


def test_words_are_means_of_their_tokens():
    attention = torch.tensor([[0.1, 0.3], [0.2, 0.0], [0.0, 0.2]])
    words = [Word('a', '', 0, 1), Word('b', ' ', 1, 3)]
    shares, total = word_attention(attention, words)
    assert torch.allclose(shares, torch.tensor([[0.25, 0.75], [0.5, 0.5]]))
    assert torch.allclose(total, torch.tensor([0.4, 0.2]))
