# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""BLIP-2 and InstructBLIP folders are imported, or refused in a sentence."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Blip2ForConditionalGeneration,
    InstructBlipForConditionalGeneration,
    LlamaForCausalLM,
)

from minigpt4.convert.huggingface_import import import_huggingface
from minigpt4.models import EVAViT, QFormer
from minigpt4.weights.read import open_tensors

NANO = 'minigpt-4_nano_caption'


def small_blip2(text_config, cls=Blip2ForConditionalGeneration, **settings):
    torch.manual_seed(0)
    config = cls.config_class(
        vision_config=dict(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=28,
        ),
        qformer_config=dict(
            hidden_size=24,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            vocab_size=50,
        ),
        text_config=text_config,
        num_query_tokens=3,
        **settings,
    )
    model = cls(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
        for name, parameter in model.named_parameters():
            if name.endswith('qkv.bias'):  # that of the key is zero
                parameter[32:64] = 0
    return model


SMALL = dict(vocab_size=60, hidden_size=16, num_hidden_layers=1)
OPT = dict(
    model_type='opt',
    ffn_dim=24,
    num_attention_heads=2,
    word_embed_proj_dim=16,
    **SMALL,
)
LLAMA = dict(
    model_type='llama', intermediate_size=24, num_attention_heads=2, **SMALL
)
T5 = dict(
    model_type='t5',
    vocab_size=60,
    d_model=16,
    num_layers=1,
    d_ff=24,
    num_heads=2,
    d_kv=8,
)


@pytest.mark.parametrize('text_config', [OPT, T5], ids=['opt', 't5'])
def test_backbone_and_neck_of_a_blip2_are_imported(text_config, tmp_path):
    """The folder has shards; unused tensors are reported with the reason."""
    small_blip2(text_config).save_pretrained(
        tmp_path / 'hf', max_shard_size='20KB'
    )
    assert len(list((tmp_path / 'hf').glob('*.safetensors'))) > 1
    report = import_huggingface(tmp_path / 'hf', tmp_path / 'ours')
    names = {path.name for path in (tmp_path / 'ours').iterdir()}
    assert names == {'eva_vit.safetensors', 'q_former.safetensors'}
    reasons = set(report.left_over.values())
    assert len(reasons) == 1 and text_config['model_type'] in reasons.pop()
    assert 'language_projection.weight' in report.left_over


def test_opt_of_a_blip2_is_imported_to_train_it(tmp_path):
    """Of the weights of the LLM and the projection every bit."""
    theirs = small_blip2(OPT)
    theirs.save_pretrained(tmp_path / 'hf')
    report = import_huggingface(
        tmp_path / 'hf', tmp_path / 'ours', with_opt=True
    )
    assert set(report.left_over) == {'llm_fingerprint'}
    llm, loading = AutoModelForCausalLM.from_pretrained(
        tmp_path / 'ours/llm', output_loading_info=True
    )
    assert not any(loading.values()), loading
    state = theirs.language_model.state_dict()
    for name, tensor in llm.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    head = torch.load(tmp_path / 'ours/minigpt4.pth', weights_only=True)
    found = head['state_dict']['head.layers.0.weight']
    assert torch.equal(found, theirs.language_projection.weight)


def test_imported_modules_compute_the_same(tmp_path):
    theirs = small_blip2(OPT).eval()
    theirs.save_pretrained(tmp_path / 'hf')
    import_huggingface(tmp_path / 'hf', tmp_path / 'ours')
    backbone = EVAViT(
        dict(width=32, depth=2, num_heads=2, mlp_width=48),
        img_size=28,
        checkpoint=str(tmp_path / 'ours' / 'eva_vit.safetensors'),
        dtype='float32',
    )
    neck = QFormer(
        in_channels=32,
        num_queries=3,
        width=24,
        depth=2,
        num_heads=4,
        mlp_width=32,
        checkpoint=str(tmp_path / 'ours' / 'q_former.safetensors'),
    )
    images = torch.randn(2, 3, 28, 28)
    with torch.no_grad():
        found = neck(backbone(images))
        expected = theirs.qformer(
            query_embeds=theirs.query_tokens.expand(2, -1, -1),
            encoder_hidden_states=theirs.vision_model(
                images
            ).last_hidden_state,
        ).last_hidden_state
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_blip2_with_llama_is_imported_completely(tmp_path):
    """The shards are pickles; without a tokenizer there is no fingerprint."""
    model = small_blip2(LLAMA)
    model.config.save_pretrained(tmp_path / 'hf')
    state = model.state_dict()
    names = sorted(state)
    shards = {
        'pytorch_model-00001-of-00002.bin': names[::2],
        'pytorch_model-00002-of-00002.bin': names[1::2],
    }
    for file, own in shards.items():
        torch.save({n: state[n] for n in own}, tmp_path / 'hf' / file)
    index = {name: file for file, own in shards.items() for name in own}
    (tmp_path / 'hf' / 'pytorch_model.bin.index.json').write_text(
        json.dumps(dict(weight_map=index))
    )
    report = import_huggingface(tmp_path / 'hf', tmp_path / 'ours')
    assert set(report.left_over) == {'llm_fingerprint'}
    head = torch.load(tmp_path / 'ours' / 'minigpt4.pth')['state_dict']
    assert torch.equal(
        head['head.layers.0.weight'], state['language_projection.weight']
    )
    llm = LlamaForCausalLM.from_pretrained(tmp_path / 'ours' / 'llm')
    for name, tensor in llm.state_dict().items():
        assert torch.equal(tensor, state[f'language_model.{name}'])


def test_instructblip(tmp_path):
    """The text path of its Q-Former is not used."""
    model = small_blip2(LLAMA, InstructBlipForConditionalGeneration)
    model.save_pretrained(tmp_path / 'hf')
    report = import_huggingface(tmp_path / 'hf', tmp_path / 'ours')
    assert not report.missing
    reasons = report.left_over
    assert 'text path' in reasons['qformer.encoder.layer.0.output.dense.bias']
    assert 'InstructBLIP' in reasons['language_projection.weight']
    ours = open_tensors(tmp_path / 'ours' / 'q_former.safetensors')
    theirs = model.state_dict()
    assert torch.equal(
        ours['layers.1.mlp.fc1.weight'].read(),
        theirs['qformer.encoder.layer.1.intermediate_query.dense.weight'],
    )
    assert torch.equal(
        ours['norm.weight'].read(),
        theirs['qformer.embeddings.layernorm.weight'],
    )


def damage(folder: Path, how: str) -> None:
    """Change a folder so that it must be refused."""
    config = json.loads((folder / 'config.json').read_text())
    if how == 'no config':
        (folder / 'config.json').unlink()
    elif how == 'no json':
        (folder / 'config.json').write_text('<html>not found</html>')
    elif how == 'no vision':
        (folder / 'config.json').write_text(json.dumps(config['text_config']))
    elif how == 'other activation':
        config['vision_config']['hidden_act'] = 'quick_gelu'
        (folder / 'config.json').write_text(json.dumps(config))
    elif how == 'another size':
        config['vision_config']['num_hidden_layers'] = 5
        (folder / 'config.json').write_text(json.dumps(config))
    elif how == 'truncated':
        file = folder / 'model.safetensors'
        file.write_bytes(file.read_bytes()[:-1000])
    elif how == 'no weights':
        (folder / 'model.safetensors').unlink()


@pytest.mark.parametrize(
    ('how', 'message'),
    [
        ('no config', 'has no config.json; give a folder of'),
        ('no json', 'is no JSON'),
        ('no vision', 'holds a model of type llama; expected blip-2'),
        ('other activation', 'hidden_act=quick_gelu; MiniGPT-4 has gelu'),
        ('another size', 'lacks 13 of the 69 tensors of EVAViT'),
        ('truncated', 'truncated or damaged; download it again'),
        ('no weights', 'holds no .*safetensors'),
    ],
)
def test_invalid_folders_are_refused(nano_folder, tmp_path, how, message):
    folder = shutil.copytree(nano_folder, tmp_path / 'hf')
    damage(folder, how)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        import_huggingface(folder, tmp_path / 'ours')
    assert [path.name for path in tmp_path.iterdir()] == ['hf']


def test_folder_of_another_size_than_the_model_is_refused(tmp_path):
    small_blip2(OPT).save_pretrained(tmp_path / 'hf')
    with pytest.raises(ValueError, match='of EVAViT'):
        import_huggingface(tmp_path / 'hf', tmp_path / 'ours', model=NANO)
    assert [path.name for path in tmp_path.iterdir()] == ['hf']
