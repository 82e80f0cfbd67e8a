# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The necks: sizes, LAVIS's names, dropout and the patch merge."""

import pytest
import torch

from minigpt4.models import PatchMerge, QFormer

TINY = dict(
    in_channels=12, num_queries=3, width=16, depth=3, num_heads=2, mlp_width=24
)

OURS_TO_LAVIS = (
    ('layers.', 'Qformer.bert.encoder.layer.'),
    ('.cross_attention.', '.crossattention.'),
    ('attention.query', 'attention.self.query'),
    ('attention.key', 'attention.self.key'),
    ('attention.value', 'attention.self.value'),
    ('attention.out.', 'attention.output.dense.'),
    ('attention.norm.', 'attention.output.LayerNorm.'),
    ('.mlp.fc1.', '.intermediate_query.dense.'),
    ('.mlp.fc2.', '.output_query.dense.'),
    ('.mlp.norm.', '.output_query.LayerNorm.'),
)


def lavis_tensors(neck):
    """State dict of a neck under the names of LAVIS."""
    tensors = {}
    for name, tensor in neck.state_dict().items():
        if name.startswith('norm.'):
            name = 'Qformer.bert.embeddings.LayerNorm.' + name[5:]
        for ours, theirs in OURS_TO_LAVIS:
            name = name.replace(ours, theirs)
        tensors[name] = tensor
    tensors['Qformer.bert.embeddings.position_ids'] = torch.arange(512)[None]
    tensors['t5_proj.weight'] = torch.ones(4, 16)
    tensors['t5_proj.bias'] = torch.ones(4)
    return tensors


def test_full_size_on_meta():
    with torch.device('meta'):
        neck = QFormer()
        assert neck(torch.empty(2, 257, 1408)).shape == (2, 32, 768)
    assert sum(p.numel() for p in neck.parameters()) == 105_165_056
    assert [layer.cross_attention is not None for layer in neck.layers] == [
        True,
        False,
    ] * 6


def test_lavis_checkpoint_loads(tmp_path):
    torch.manual_seed(0)
    source = QFormer(**TINY)
    for parameter in source.parameters():
        parameter.data += torch.randn_like(parameter) * 0.1
    tensors = lavis_tensors(source)
    assert (
        'Qformer.bert.encoder.layer.2.crossattention.self.key.weight'
        in tensors
    )
    torch.save(dict(model=tensors), tmp_path / 'blip2.pth')
    loaded = QFormer(**TINY, checkpoint=str(tmp_path / 'blip2.pth'))
    features = torch.randn(2, 5, 12)
    assert torch.equal(loaded(features), source(features))


def test_our_names_load(tmp_path):
    source = QFormer(**TINY)
    torch.save(source.state_dict(), tmp_path / 'ours.pth')
    loaded = QFormer(**TINY, checkpoint=str(tmp_path / 'ours.pth'))
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, source.state_dict()[name]), name


def test_faulty_lavis_checkpoints_are_refused(tmp_path):
    tensors = lavis_tensors(QFormer(**TINY))
    path = tmp_path / 'blip2.pth'
    lacking = {k: v for k, v in tensors.items() if 'ln_vision' not in k}
    torch.save(dict(model=lacking), path)
    with pytest.raises(ValueError, match=r'lacks 2 of .*ln_vision\.weight'):
        QFormer(**TINY, checkpoint=str(path))
    torch.save(dict(model=tensors), path)
    with pytest.raises(ValueError, match=r'misshaped .*\(1, 3, 16\) instead'):
        QFormer(**{**TINY, 'num_queries': 4}, checkpoint=str(path))
    more = 'Qformer.bert.encoder.layer.3.output_query.LayerNorm.bias'
    torch.save(dict(model={**tensors, more: torch.zeros(16)}), path)
    with pytest.raises(
        ValueError, match=r'misshaped 1 .*layer\.3\.outp.*beyond'
    ):
        QFormer(**TINY, checkpoint=str(path))


def test_a_frozen_neck_has_no_dropout():
    neck = QFormer(**TINY, dropout=0.5)
    features = torch.randn(1, 5, 12)
    assert torch.equal(neck(features), neck(features))
    neck.train()
    assert torch.equal(neck(features), neck(features))
    assert not any(p.requires_grad for p in neck.parameters())


def test_a_trained_neck_has_dropout_in_train_mode_only():
    neck = QFormer(**TINY, dropout=0.5, frozen=False, dtype='bfloat16')
    features = torch.randn(1, 5, 12)
    assert neck(features).dtype == torch.float32
    assert not torch.equal(neck(features), neck(features))
    neck.eval()
    assert torch.equal(neck(features), neck(features))
    neck(features).sum().backward()
    assert all(p.grad is not None for p in neck.parameters())


def test_features_of_another_dtype_are_accepted():
    neck = QFormer(**TINY)
    features = torch.randn(1, 5, 12).bfloat16()
    out = neck(features)
    assert out.dtype == torch.float32
    assert torch.equal(out, neck(features.float()))
    assert QFormer(**TINY, dtype='bfloat16')(features).dtype == torch.bfloat16


def test_patch_merge_concatenates_four_neighbours():
    neck = PatchMerge(in_channels=2, num_patches=8, merge=4)
    features = torch.randn(3, 9, 2)
    out = neck(features)
    assert out.shape == (3, neck.num_tokens, neck.out_channels) == (3, 2, 8)
    normed = torch.nn.functional.layer_norm(features, (2,), eps=1e-5)
    expected = torch.cat([normed[:, i] for i in (5, 6, 7, 8)], dim=-1)
    torch.testing.assert_close(out[:, 1], expected)
    assert not any(p.requires_grad for p in neck.parameters())


def test_patch_merge_full_size_on_meta():
    with torch.device('meta'):
        neck = PatchMerge()
        assert neck(torch.empty(2, 257, 1408)).shape == (2, 64, 5632)
