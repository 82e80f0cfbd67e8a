# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""A checkpoint holds trained weights and loads with its own LLM only."""

import copy

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.runner import load_checkpoint, save_checkpoint
from mmengine.runner.checkpoint import get_state_dict
from torch import nn

HEAD = ['head.layers.0.weight', 'head.layers.0.bias']
CHECKPOINT = {*HEAD, 'llm_fingerprint'}


def test_the_state_dict_holds_trained_weights_only(tiny_model):
    assert set(tiny_model.state_dict()) == CHECKPOINT
    assert set(get_state_dict(tiny_model)) == CHECKPOINT


def test_state_dict_inside_another_module(tiny_model):
    outer = nn.ModuleDict(dict(other=nn.Linear(1, 1), model=tiny_model))
    assert set(outer.state_dict()) == {
        'other.weight',
        'other.bias',
        *(f'model.{k}' for k in CHECKPOINT),
    }
    before = tiny_model.head.layers[0].weight.clone()
    state = copy.deepcopy(outer.state_dict())
    nn.init.zeros_(tiny_model.head.layers[0].weight)
    outer.load_state_dict(state)
    assert torch.equal(tiny_model.head.layers[0].weight, before)


def test_mmengine_round_trip(tiny_model, tmp_path):
    path = str(tmp_path / 'epoch_1.pth')
    save_checkpoint(dict(state_dict=get_state_dict(tiny_model), meta={}), path)
    head = tiny_model.head.layers[0]
    weight = head.weight.clone()
    frozen = tiny_model.neck.query_tokens.clone()
    nn.init.zeros_(head.weight)
    load_checkpoint(tiny_model, path, map_location='cpu', strict=True)
    assert torch.equal(head.weight, weight)
    assert torch.equal(tiny_model.neck.query_tokens, frozen)
    # the file is as it was: the check took nothing from it
    assert set(torch.load(path)['state_dict']) == CHECKPOINT


def load_with_mmengine(model, state, tmp_path):
    torch.save(dict(state_dict=state), tmp_path / 'a.pth')
    load_checkpoint(model, str(tmp_path / 'a.pth'), map_location='cpu')


def load_with_torch(model, state, tmp_path):
    model.load_state_dict(state)


@pytest.fixture(params=[load_with_mmengine, load_with_torch])
def load(request, tmp_path):
    return lambda model, state: request.param(model, state, tmp_path)


def test_strict_load_of_its_own_state(tiny_model, load):
    state = tiny_model.state_dict()
    load(tiny_model, state)
    assert set(state) == CHECKPOINT


def test_another_llm_of_the_same_size_is_refused(
    build_tiny, other_llm_dir, load
):
    theirs = build_tiny(decoder=dict(name_or_path=str(other_llm_dir)))
    state = copy.deepcopy(theirs.state_dict())
    ours = build_tiny()
    nn.init.zeros_(ours.head.layers[0].weight)
    with pytest.raises(ValueError, match='another LLM, of the same size'):
        load(ours, state)
    assert ours.head.layers[0].weight.abs().sum() == 0
    unchecked = build_tiny(check_llm=False)
    load(unchecked, state)
    assert torch.equal(
        unchecked.head.layers[0].weight, state['head.layers.0.weight']
    )


def test_llm_of_another_size_is_refused(build_tiny, make_llm, load):
    wide = make_llm(
        model_type='llama',
        vocab_size=400,
        hidden_size=64,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
    )
    state = build_tiny(decoder=dict(name_or_path=str(wide))).state_dict()
    with pytest.raises(ValueError, match='hidden_size 64, but .* has 32'):
        load(build_tiny(), state)
    with pytest.raises(
        ValueError,
        match=r'weight is \(64, 24\) in the checkpoint but \(32, 24\)',
    ):
        load(build_tiny(check_llm=False), state)


def test_faulty_heads_are_refused(tiny_model, load):
    state = copy.deepcopy(tiny_model.state_dict())
    lacking = {k: v for k, v in state.items() if not k.endswith('bias')}
    with pytest.raises(ValueError, match=r'lacks head\.layers\.0\.bias'):
        load(tiny_model, lacking)
    with pytest.raises(ValueError, match=r'lacks .* holds backbone\.x'):
        load(tiny_model, {'backbone.x': torch.ones(32, 24)})
    with pytest.raises(ValueError, match=r'weight is \(32, 9\) .* \(32, 24'):
        load(tiny_model, {'llama_proj.weight': torch.ones(32, 9)})
    state['head.layers.0.bias'] = torch.ones(31)
    with pytest.raises(ValueError, match=r'bias is \(31,\) .* but \(32,\)'):
        load(tiny_model, state)


def test_layers_that_the_head_does_not_have_are_refused(tiny_model, load):
    """A head of three linear layers would be cut to its first one."""
    state = copy.deepcopy(tiny_model.state_dict())
    state['head.layers.2.weight'] = torch.zeros(2, 2)
    with pytest.raises(ValueError, match='has head.layers.2.weight, which'):
        load(tiny_model, state)


def test_other_weights_of_a_frozen_part_are_refused(tiny_model, load):
    """A checkpoint of this model would lack them."""
    state = copy.deepcopy(tiny_model.state_dict())
    frozen = tiny_model.neck.query_tokens.clone()
    state['neck.query_tokens'] = frozen + 1
    with pytest.raises(ValueError, match='neck.query_tokens than the frozen'):
        load(tiny_model, state)
    assert torch.equal(tiny_model.neck.query_tokens, frozen)
    for same in (frozen, frozen.half()):
        state['neck.query_tokens'] = same
        load(tiny_model, copy.deepcopy(state))
        assert torch.equal(tiny_model.neck.query_tokens, frozen)


def test_published_names_load(tiny_model, load):
    state = {
        'llama_proj.weight': torch.randn(32, 24),
        'llama_proj.bias': torch.randn(32),
    }
    load(tiny_model, state)
    head = tiny_model.head.layers[0]
    assert torch.equal(head.weight, state['llama_proj.weight'])
    assert torch.equal(head.bias, state['llama_proj.bias'])


def test_official_file_loads(tiny_model, tmp_path):
    """mmengine opens ``state_dict`` only; upstream wraps as ``model``."""
    from mmengine.runner import load_checkpoint

    tensors = {
        'llama_proj.weight': torch.randn(32, 24),
        'llama_proj.bias': torch.randn(32),
    }
    path = str(tmp_path / 'prerained_minigpt4_7b.pth')
    torch.save(
        dict(model=tensors, optimizer=dict(state={}), scaler=None, epoch=3),
        path,
    )
    load_checkpoint(tiny_model, path)
    head = tiny_model.head.layers[0]
    assert torch.equal(head.weight, tensors['llama_proj.weight'])


def test_checkpoint_without_a_fingerprint_loads(tiny_model, load):
    state = copy.deepcopy(tiny_model.state_dict())
    del state['llm_fingerprint']
    state['head.layers.0.bias'].fill_(7)
    load(tiny_model, state)
    assert (tiny_model.head.layers[0].bias == 7).all()


def test_building_twice_gives_the_same_weights(tiny_cfg, tiny_model, tmp_path):
    from minigpt4.registry import MODELS

    for part in ('backbone', 'neck'):
        path = tmp_path / f'{part}.pth'
        torch.save(getattr(tiny_model, part).state_dict(), path)
        tiny_cfg[part]['checkpoint'] = str(path)
    cfg = ConfigDict(tiny_cfg)
    before = copy.deepcopy(cfg)
    for seed in (1, 2):
        torch.manual_seed(seed)
        model = MODELS.build(cfg)
        assert cfg == before
        for part in ('backbone', 'neck', 'decoder'):
            expected = getattr(tiny_model, part).state_dict()
            got = getattr(model, part).state_dict()
            assert got.keys() == expected.keys()
            assert all(torch.equal(got[k], expected[k]) for k in expected), (
                part
            )


def test_another_template_is_refused(build_tiny, load, log):
    """Stage 2 continues a projection of stage 1, whose template is bare."""
    state = copy.deepcopy(build_tiny(prompt_template='llama2').state_dict())
    load(build_tiny(prompt_template='bare'), state)
    ours = build_tiny()
    with pytest.raises(ValueError, match='template llama2, .* vicuna_v0; set'):
        load(ours, state)
    assert not log
    load(build_tiny(check_template=False), state)
    assert 'trained with the template llama2' in log[0]
    stage_1 = copy.deepcopy(build_tiny(prompt_template='bare').state_dict())
    load(ours, stage_1)


LORA = dict(r=4, lora_alpha=8, target_modules=['q_proj', 'v_proj'])


def test_lora_begins_with_a_checkpoint_of_stage_1(build_tiny, tiny_model):
    pytest.importorskip('peft')
    state = tiny_model.state_dict()
    nn.init.ones_(state['head.layers.0.weight'])
    model = build_tiny(decoder=dict(lora=LORA))
    report = model.load_state_dict(dict(state), strict=False)
    assert not report.missing_keys
    assert torch.equal(
        model.head.layers[0].weight, state['head.layers.0.weight']
    )
    lora = {n: p for n, p in model.named_parameters() if 'lora_' in n}
    assert lora and not any(p.any() for n, p in lora.items() if '_B.' in n)


def test_lora_in_checkpoints(build_tiny, tiny_model):
    pytest.importorskip('peft')
    model = build_tiny(decoder=dict(lora=LORA))
    for name, parameter in model.named_parameters():
        if 'lora_B' in name:
            nn.init.normal_(parameter)
    state = model.state_dict()
    parts = {name.split('.')[0] for name in state}
    assert parts == {'head', 'decoder', 'llm_fingerprint'}
    again = build_tiny(decoder=dict(lora=LORA))
    again.load_state_dict(dict(state), strict=False)
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    with pytest.raises(ValueError, match='has no decoder.lora'):
        tiny_model.load_state_dict(dict(state), strict=False)
    other = build_tiny(decoder=dict(lora=dict(LORA, lora_alpha=16)))
    with pytest.raises(ValueError, match='was trained with LoRA of'):
        other.load_state_dict(dict(state), strict=False)
    name = next(name for name in state if 'lora_A' in name)
    incomplete = {n: t for n, t in state.items() if n != name}
    with pytest.raises(ValueError, match=f'lacks {name}'):
        again.load_state_dict(incomplete, strict=False)
