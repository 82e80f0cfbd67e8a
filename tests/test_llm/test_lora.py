# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""LoRA on an LLM: its settings, merging and the errors."""

import pytest
import torch

pytest.importorskip('peft', reason='LoRA needs peft')

from minigpt4.llm.lora import (  # noqa: E402
    compare_lora,
    lora_settings,
    other_form,
    refuse_lora,
)
from minigpt4.models import LLMDecoder  # noqa: E402

LORA = dict(r=4, lora_alpha=8, target_modules=['q_proj', 'v_proj'])


@pytest.fixture
def decoder(tiny_llm_dir):
    """An LLM with LoRA that has an effect."""
    torch.manual_seed(0)
    decoder = LLMDecoder(str(tiny_llm_dir), dtype='float32', lora=LORA)
    for name, parameter in decoder.named_parameters():
        if 'lora_B' in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return decoder.eval()


def logits(decoder):
    ids = torch.arange(3, 15)[None]
    with torch.no_grad():
        return decoder.llm(input_ids=ids).logits


def test_merged_lora_answers_the_same(decoder, tiny_llm_dir):
    assert decoder.lora_settings == dict(r=4, scale=2.0)
    before = logits(decoder)
    base = LLMDecoder(str(tiny_llm_dir), dtype='float32')
    assert (logits(base) - before).abs().max() > 0.1
    assert decoder.merge_lora()
    torch.testing.assert_close(logits(decoder), before, atol=1e-5, rtol=1e-5)
    assert decoder.frozen and decoder.lora_settings is None
    assert not any(p.requires_grad for p in decoder.parameters())
    names = [name for name, _ in decoder.named_parameters()]
    assert names == [name for name, _ in base.named_parameters()]
    assert not decoder.merge_lora()


def test_scale():
    assert lora_settings(LORA)['scale'] == 2
    assert lora_settings({**LORA, 'use_rslora': True})['scale'] == 4


def test_errors():
    with pytest.raises(ValueError, match='which peft does not take'):
        lora_settings(dict(rank=4))
    same = dict(r=4, scale=2.0)
    for trained in (None, same):
        compare_lora(same, trained, 'a.pth')
    with pytest.raises(ValueError, match='a.pth was trained with LoRA of'):
        compare_lora(same, dict(r=4, scale=1.0), 'a.pth')
    refuse_lora(['head.layers.0.weight'], 'a.pth')
    with pytest.raises(ValueError, match='has no decoder.lora'):
        refuse_lora(['decoder.llm.q_proj.lora_A.default.weight'], 'a.pth')


@pytest.mark.parametrize(
    ('settings', 'name'),
    [
        (LORA, None),
        (dict(LORA, bias='all'), 'bias'),
        (dict(LORA, use_dora=True), 'use_dora'),
        (dict(LORA, init_lora_weights='pissa'), 'init_lora_weights'),
    ],
)
def test_other_forms(settings, name):
    assert other_form(settings) == name
