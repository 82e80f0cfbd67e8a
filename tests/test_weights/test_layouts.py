# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Names of tensors in other projects' files, there and back."""

import pytest
import torch

from minigpt4.models import EVAViT, QFormer
from minigpt4.weights.layouts import (
    COMPONENTS,
    LAYOUTS,
    KeyReport,
    from_layout,
    to_layout,
)
from minigpt4.weights.read import LazyTensor


@pytest.fixture(scope='module')
def parts():
    """Random tensors of each component, by our names."""
    torch.manual_seed(0)
    modules = dict(
        backbone=EVAViT(
            dict(width=16, depth=2, num_heads=2, mlp_width=24), img_size=28
        ),
        neck=QFormer(
            in_channels=16,
            num_queries=3,
            width=12,
            depth=3,
            num_heads=2,
            mlp_width=20,
        ),
        head=torch.nn.ModuleDict(
            dict(
                head=torch.nn.ModuleDict(
                    dict(layers=torch.nn.Sequential(torch.nn.Linear(12, 8)))
                )
            )
        ),
    )
    return {
        part: {
            name: LazyTensor.of(torch.randn_like(tensor))
            for name, tensor in module.state_dict().items()
        }
        for part, module in modules.items()
    }


def shapes(tensors):
    return {name: tensor.shape for name, tensor in tensors.items()}


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('part', COMPONENTS)
def test_translation_and_back_changes_no_bit(parts, part, layout):
    theirs = to_layout(part, layout, parts[part])
    found, report = from_layout(part, theirs, shapes(parts[part]))
    assert report.matched == [*parts[part]]
    assert not report.left_over and not report.missing
    report.check('file', 'model')
    for name, tensor in parts[part].items():
        assert torch.equal(found[name].read(), tensor.read()), name
        # a view would drag its whole storage into a pickle
        assert found[name].read().untyped_storage().nbytes() == tensor.nbytes


@pytest.mark.parametrize(
    'part, layout, names',
    [
        (
            'backbone',
            'mmpretrain',
            [
                'patch_embed.projection.bias',
                'layers.1.ln2.weight',
                'layers.1.attn.q_bias',
                'layers.1.attn.qkv.weight',
                'layers.0.ffn.layers.0.0.weight',
                'layers.0.ffn.layers.1.bias',
            ],
        ),
        (
            'backbone',
            'huggingface',
            [
                'vision_model.embeddings.class_embedding',
                'vision_model.embeddings.position_embedding',
                'vision_model.embeddings.patch_embedding.weight',
                'vision_model.encoder.layers.1.layer_norm2.bias',
                'vision_model.encoder.layers.1.self_attn.qkv.weight',
                'vision_model.encoder.layers.1.self_attn.qkv.bias',
                'vision_model.encoder.layers.1.self_attn.projection.bias',
                'vision_model.encoder.layers.1.mlp.fc2.bias',
            ],
        ),
        (
            'neck',
            'official',
            [
                'query_tokens',
                'ln_vision.weight',
                'Qformer.bert.embeddings.LayerNorm.weight',
                'Qformer.bert.encoder.layer.2.crossattention.self.key.weight',
                'Qformer.bert.encoder.layer.1.attention.output.LayerNorm.bias',
                'Qformer.bert.encoder.layer.1.intermediate_query.dense.bias',
                'Qformer.bert.encoder.layer.1.output_query.LayerNorm.bias',
            ],
        ),
        (
            'neck',
            'mmpretrain',
            [
                'query_tokens',
                'q_former.bert.embeddings.LayerNorm.weight',
                'q_former.bert.encoder.layer.0.attention.self.query.bias',
            ],
        ),
        (
            'neck',
            'huggingface',
            [
                'query_tokens',
                'vision_model.post_layernorm.weight',
                'qformer.layernorm.weight',
                'qformer.encoder.layer.0.attention.attention.query.weight',
                'qformer.encoder.layer.2.crossattention.attention.key.bias',
                'qformer.encoder.layer.2.crossattention.output.dense.bias',
                'qformer.encoder.layer.1.output_query.dense.weight',
            ],
        ),
        ('head', 'official', ['llama_proj.weight', 'llama_proj.bias']),
        ('head', 'mmpretrain', ['llama_proj.weight']),
        ('head', 'huggingface', ['language_projection.weight']),
    ],
)
def test_names(parts, part, layout, names):
    """Written by hand, to find errors that cancel out there and back."""
    assert set(names) <= set(to_layout(part, layout, parts[part]))


def test_bias_of_the_key_is_zero(parts):
    theirs = to_layout('backbone', 'huggingface', parts['backbone'])
    name = 'vision_model.encoder.layers.0.self_attn.qkv.bias'
    q, k, v = theirs[name].read().chunk(3)
    assert torch.equal(q, parts['backbone']['blocks.0.attn.q_bias'].read())
    assert torch.equal(v, parts['backbone']['blocks.0.attn.v_bias'].read())
    assert not k.any()
    theirs[name] = LazyTensor.of(torch.ones(48))
    found, _ = from_layout('backbone', theirs, shapes(parts['backbone']))
    with pytest.raises(ValueError, match='bias for the key that is not zero'):
        found['blocks.0.attn.v_bias'].read()


@pytest.mark.parametrize(
    'part, layout, prefix',
    [
        ('backbone', 'official', 'visual_encoder.'),
        ('backbone', 'mmpretrain', 'vision_encoder.'),
        ('backbone', 'mmpretrain', 'backbone.'),
    ],
)
def test_files_of_complete_models(parts, part, layout, prefix):
    theirs = {
        prefix + name: tensor
        for name, tensor in to_layout(part, layout, parts[part]).items()
    }
    theirs |= to_layout('neck', layout, parts['neck'])
    found, report = from_layout(part, theirs, shapes(parts[part]))
    assert report.layout == layout
    assert len(found) == len(parts[part])
    assert set(report.left_over.values()) == {'of the neck'}


def test_text_path_of_instruct_blip_is_not_used(parts):
    theirs = to_layout('neck', 'huggingface', parts['neck'])
    for suffix in ('weight', 'bias'):
        theirs[f'qformer.embeddings.layernorm.{suffix}'] = theirs.pop(
            f'qformer.layernorm.{suffix}'
        )
    more = [
        'qformer.embeddings.word_embeddings.weight',
        'qformer.encoder.layer.0.intermediate.dense.weight',
        'qformer.encoder.layer.0.output.LayerNorm.bias',
    ]
    theirs |= dict.fromkeys(more, LazyTensor.of(torch.ones(2)))
    found, report = from_layout('neck', theirs, shapes(parts['neck']))
    assert len(found) == len(parts['neck'])
    assert set(report.left_over) == set(more)
    assert all('text path' in why for why in report.left_over.values())


@pytest.mark.parametrize(
    'name, reason',
    [
        ('blocks.2.norm1.weight', 'a layer beyond'),
        ('norm.weight', 'a final norm or head'),
        ('head.weight', 'a final norm or head'),
        ('t5_proj.weight', 'a projection to the LLM of BLIP-2'),
        ('Qformer.bert.embeddings.position_ids', 'of the neck'),
        ('llama_model.model.norm.weight', 'the LLM'),
        ('rope.freqs', 'unknown to this architecture'),
    ],
)
def test_unused_names_have_a_reason(parts, name, reason):
    theirs = dict(parts['backbone'], **{name: LazyTensor.of(torch.ones(1))})
    _, report = from_layout('backbone', theirs, shapes(parts['backbone']))
    assert report.left_over[name].startswith(reason)
    assert name in str(report) and reason in str(report)
    report.check('file', 'model')


def test_missing_and_misshaped_are_refused_unless_allowed(parts):
    theirs = dict(parts['neck'])
    del theirs['ln_vision.weight']
    theirs['query_tokens'] = LazyTensor.of(torch.ones(1, 4, 12))
    wanted = shapes(parts['neck'])
    for allow, sentence in (
        ((), 'a.pth lacks 1 of the .* tensors of QFormer, e.g. ln_vision.w'),
        (('ln_*',), r'misshaped 1 .*query_tokens \(\(1, 4, 12\) instead of'),
    ):
        _, report = from_layout('neck', theirs, wanted, allow)
        with pytest.raises(ValueError, match=sentence):
            report.check('a.pth', 'QFormer')
        assert 'missing: 1' in str(report)
        assert 'misshaped: query_tokens' in str(report)
    found, report = from_layout(
        'neck', theirs, wanted, ('ln_vision.*', 'query_tokens')
    )
    report.check('a.pth', 'QFormer')
    assert len(found) == len(wanted) - 2


def test_report_is_short():
    report = KeyReport('ours', left_over={str(i): 'why' for i in range(999)})
    assert len(str(report)) < 200
    assert '999 (0, 1, 2 ...): why' in str(report)
