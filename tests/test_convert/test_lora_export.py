# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""LoRA merged into the LLM, and as an adapter that peft alone loads."""

import copy

import pytest
import torch
from mmengine.config import Config
from transformers import AutoModelForCausalLM

from minigpt4.registry import MODELS
from minigpt4.weights.read import open_tensors
from minigpt4.weights.shipped import NANO_FOLDER

peft = pytest.importorskip('peft', reason='LoRA needs peft')

from minigpt4.convert.huggingface_export import (  # noqa: E402
    export_huggingface,
)
from minigpt4.convert.lora_export import (  # noqa: E402
    export_merged,
    export_peft,
)

LORA = dict(
    r=4, lora_alpha=8, lora_dropout=0.05, target_modules=['q_proj', 'v_proj']
)
IDS = torch.arange(3, 15)[None]


@pytest.fixture
def cfg(tiny_cfg):
    """A config with LoRA."""
    model = copy.deepcopy(tiny_cfg)
    model['decoder']['lora'] = LORA
    return Config(dict(model=model))


@pytest.fixture
def trained(cfg, tmp_path):
    """A model whose LoRA has an effect, and its checkpoint."""
    torch.manual_seed(0)
    model = MODELS.build(cfg.model).eval()
    for name, parameter in model.decoder.named_parameters():
        if 'lora_B' in name:
            torch.nn.init.normal_(parameter, std=0.1)
    file = tmp_path / 'iter_4.pth'
    torch.save(dict(state_dict=model.state_dict(), meta={}), file)
    return model, file


def logits(llm):
    with torch.no_grad():
        return llm(input_ids=IDS).logits


def test_merged(cfg, trained, tmp_path):
    model, file = trained
    report = export_merged(cfg, file, tmp_path / 'out')
    assert len(report.matched) == 4
    expected = logits(model.decoder.llm)
    llm = AutoModelForCausalLM.from_pretrained(tmp_path / 'out/llm')
    torch.testing.assert_close(logits(llm), expected, atol=1e-5, rtol=1e-5)

    plain = copy.deepcopy(cfg.model)
    plain.decoder.update(lora=None, name_or_path=str(tmp_path / 'out/llm'))
    torch.manual_seed(0)  # the same vision parts
    again = MODELS.build(plain).eval()
    state = torch.load(tmp_path / 'out/minigpt4.pth', weights_only=True)
    again.load_state_dict(state['state_dict'], strict=False)
    assert torch.equal(
        again.head.layers[0].weight, model.head.layers[0].weight
    )
    found = logits(again.decoder.llm)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_peft_alone_loads_the_adapter(cfg, trained, tmp_path):
    model, file = trained
    export_peft(cfg, file, tmp_path / 'out')
    base = AutoModelForCausalLM.from_pretrained(cfg.model.decoder.name_or_path)
    llm = peft.PeftModel.from_pretrained(base, tmp_path / 'out/adapter').eval()
    expected = logits(model.decoder.llm)
    torch.testing.assert_close(logits(llm), expected, atol=1e-5, rtol=1e-5)
    assert (logits(llm.unload()) - expected).abs().max() > 0.1
    state = torch.load(tmp_path / 'out/minigpt4.pth', weights_only=True)
    assert not any('lora' in name for name in state['state_dict'])


@pytest.mark.parametrize('export', [export_merged, export_peft])
def test_the_projection_refuses_the_llm_without_lora(
    export, cfg, trained, tmp_path
):
    _, file = trained
    export(cfg, file, tmp_path / 'out')
    state = torch.load(tmp_path / 'out/minigpt4.pth', weights_only=True)
    plain = copy.deepcopy(cfg.model)
    plain.decoder.lora = None
    torch.manual_seed(0)
    model = MODELS.build(plain)
    with pytest.raises(ValueError, match='belongs to an LLM with LoRA'):
        model.load_state_dict(state['state_dict'], strict=False)
    model.check_llm = False
    model.load_state_dict(state['state_dict'], strict=False)


def test_a_merged_llm_refuses_the_projection_of_the_plain_one(
    cfg, trained, tmp_path
):
    _, file = trained
    export_merged(cfg, file, tmp_path / 'out', dtype='float32')
    plain = copy.deepcopy(cfg.model)
    plain.decoder.lora = None
    state = MODELS.build(plain).state_dict()
    plain.decoder.name_or_path = str(tmp_path / 'out/llm')
    with pytest.raises(ValueError, match='LoRA was merged into .*llm, but'):
        MODELS.build(plain).load_state_dict(state, strict=False)


def test_checkpoints_of_other_settings_are_refused(cfg, trained, tmp_path):
    _, file = trained
    out = tmp_path / 'out'
    for settings, message in (
        (dict(r=8), 'was trained with LoRA|set r of decoder.lora'),
        (dict(lora_alpha=4), 'was trained with LoRA'),
        (dict(target_modules=['q_proj', 'o_proj']), 'not of .*o_proj'),
        (dict(use_dora=True), 'use_dora=True, which cannot be exported'),
    ):
        other = copy.deepcopy(cfg)
        other.model.decoder.lora.update(settings)
        with pytest.raises(ValueError, match=message):
            export_merged(other, file, out)
    plain = copy.deepcopy(cfg)
    plain.model.decoder.lora = None
    with pytest.raises(ValueError, match='has no decoder.lora'):
        export_peft(plain, file, out)
    state = torch.load(file, weights_only=True)['state_dict']
    name = next(n for n in state if 'v_proj.lora_B' in n)
    torch.save({n: t for n, t in state.items() if n != name}, file)
    with pytest.raises(ValueError, match=f'lacks {name}'):
        export_merged(cfg, file, out)
    torch.save({n: t for n, t in state.items() if 'lora' not in n}, file)
    with pytest.raises(ValueError, match='has no LoRA weights'):
        export_merged(cfg, file, out)
    assert not out.exists()


def test_hugging_face_folder_has_the_sums(nano_cfg, tmp_path):
    """Weight + scale * B @ A, in fp32."""
    nano_cfg.model.decoder.lora = dict(LORA, target_modules=['q_proj'])
    state = torch.load(NANO_FOLDER / 'minigpt4_nano.pth', weights_only=True)
    state = dict(state.get('state_dict', state))
    draw = torch.Generator().manual_seed(0)
    layers = [f'model.layers.{i}.self_attn.q_proj' for i in range(4)]
    for layer in layers:
        for part, shape in (('A', (4, 192)), ('B', (192, 4))):
            state[f'decoder.llm.{layer}.lora_{part}.default.weight'] = (
                torch.randn(shape, generator=draw)
            )
    torch.save(state, tmp_path / 'a.pth')
    export_huggingface(
        nano_cfg, tmp_path / 'a.pth', tmp_path / 'out', dtype='float32'
    )
    found = open_tensors(tmp_path / 'out')
    llm = open_tensors(NANO_FOLDER / 'llm')
    for layer in layers:
        a, b = (
            state[f'decoder.llm.{layer}.lora_{x}.default.weight'] for x in 'AB'
        )
        expected = llm[f'{layer}.weight'].read().float() + 2 * b @ a
        merged = found[f'language_model.{layer}.weight'].read()
        torch.testing.assert_close(merged, expected, atol=1e-5, rtol=1e-5)
