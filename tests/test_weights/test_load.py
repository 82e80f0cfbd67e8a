# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Weights are loaded whole, or one sentence says why not."""

import pytest
import torch
from safetensors.torch import save_file

from minigpt4.models import EVAViT, QFormer
from minigpt4.weights.load import local_path, torch_dtype

NECK = dict(
    in_channels=12, num_queries=3, width=16, depth=2, num_heads=2, mlp_width=24
)


@pytest.fixture
def checkpoint(tmp_path):
    """A Q-Former's own file."""
    torch.manual_seed(0)
    neck = QFormer(**NECK)
    save_file(neck.state_dict(), tmp_path / 'a.safetensors')
    return neck, tmp_path / 'a.safetensors'


def test_weights_are_mapped_not_copied(checkpoint, monkeypatch):
    """One copy: parameters are the file's tensors, nothing is initialised."""
    source, path = checkpoint
    drawn = []
    monkeypatch.setattr(
        torch.nn.init, '_no_grad_normal_', lambda *a, **k: drawn.append(a)
    )
    neck = QFormer(**NECK, checkpoint=str(path))
    assert not drawn
    assert not any(p.is_meta for p in neck.parameters())
    for name, tensor in neck.state_dict().items():
        assert torch.equal(tensor, source.state_dict()[name])
    # pages of the file, not of the heap: they lie within one mapping
    places = sorted(p.data_ptr() for p in neck.parameters())
    assert places[-1] - places[0] < path.stat().st_size


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_trained_weights_never_change_their_file(tmp_path, suffix):
    source = QFormer(**NECK)
    path = tmp_path / f'a{suffix}'
    if suffix == '.pth':
        torch.save(source.state_dict(), path)
    else:
        save_file(source.state_dict(), path)
    before = path.read_bytes()
    neck = QFormer(**NECK, frozen=False, checkpoint=str(path))
    for parameter in neck.parameters():
        assert parameter.requires_grad
        parameter.data += 1
    again = QFormer(**NECK, checkpoint=str(path))
    assert path.read_bytes() == before
    assert torch.equal(again.query_tokens, source.query_tokens)


def test_weights_take_the_type_asked_for(checkpoint):
    source, path = checkpoint
    neck = QFormer(**NECK, dtype='bfloat16', checkpoint=str(path))
    assert {p.dtype for p in neck.parameters()} == {torch.bfloat16}
    assert torch.equal(neck.query_tokens, source.query_tokens.bfloat16())


@pytest.mark.parametrize(
    'name',
    [
        'YOUR_PATH_TO_VICUNA',
        'please set this value',
        '/path/to/vicuna',
        '',
        '<checkpoint>',
        '...',
    ],
)
def test_placeholders(name):
    with pytest.raises(FileNotFoundError, match='checkpoint is the placehol'):
        local_path(name, 'checkpoint')


def test_folder_that_only_looks_like_a_placeholder(tmp_path):
    folder = tmp_path / 'path_to_models'
    folder.mkdir()
    assert local_path(str(folder), 'LLM') == folder


@pytest.mark.parametrize(
    'name',
    [
        '/no/such/file.pth',
        './weights/eva.pth',
        '../a/b',
        '~/no-such-folder',
        'weights/eva.pth',
        'weights/eva.safetensors',
        'eva_vit_g.pth',
        'a/b/c',
        'nano/no-such-part',
    ],
)
def test_missing_paths(name):
    with pytest.raises(FileNotFoundError, match='does not exist; give the'):
        local_path(name, 'checkpoint')


def test_names_of_a_hub_and_local_folders(tmp_path, monkeypatch):
    assert local_path('Vision-CAIR/vicuna-7b', 'LLM') is None
    (tmp_path / 'org' / 'name').mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert local_path('org/name', 'LLM').is_dir()


@pytest.mark.parametrize('part', [EVAViT, QFormer])
@pytest.mark.parametrize(
    'name, sentence',
    [
        ('YOUR_PATH_TO/eva_vit_g.pth', 'placeholder'),
        ('/no/such/eva_vit_g.pth', 'does not exist'),
        ('org/name', 'is no file'),
        ('.', 'holds no .*safetensors'),
    ],
)
def test_parts_refuse_missing_checkpoints(part, name, sentence):
    small = dict(arch='nano') if part is EVAViT else dict(width=24, depth=1)
    with pytest.raises(FileNotFoundError, match=sentence):
        part(**small, checkpoint=name)


def test_torch_dtype():
    assert torch_dtype('bfloat16') == torch.bfloat16
    if not torch.cuda.is_available():
        assert torch_dtype('auto') == torch.float32
    for name in ('int8', 'half precision', 'nn'):
        with pytest.raises(ValueError, match=f"dtype '{name}' is no float"):
            torch_dtype(name)
