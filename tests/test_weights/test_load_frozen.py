# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Frozen weights are loaded completely, or refused."""

import pytest
import torch
from safetensors.torch import save_file

from minigpt4.models import EVAViT, QFormer
from minigpt4.weights.load_frozen import local_path, torch_dtype

NECK = dict(
    in_channels=12, num_queries=3, width=16, depth=2, num_heads=2, mlp_width=24
)


@pytest.fixture
def checkpoint(tmp_path):
    """A Q-Former and its file."""
    torch.manual_seed(0)
    neck = QFormer(**NECK)
    save_file(neck.state_dict(), tmp_path / 'a.safetensors')
    return neck, tmp_path / 'a.safetensors'


def test_weights_are_mapped_and_not_initialised(checkpoint):
    """Parameters are the tensors of the file; no random number is drawn."""
    source, path = checkpoint
    state = torch.get_rng_state()
    neck = QFormer(**NECK, checkpoint=str(path))
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(p.is_meta for p in neck.parameters())
    for name, tensor in neck.state_dict().items():
        assert torch.equal(tensor, source.state_dict()[name])
    # they are in one mapping of the file, not on the heap
    addresses = sorted(p.data_ptr() for p in neck.parameters())
    assert addresses[-1] - addresses[0] < path.stat().st_size


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


def test_weights_get_the_requested_type(checkpoint):
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
def test_placeholders_are_refused(name):
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
def test_missing_paths_are_refused(name):
    with pytest.raises(FileNotFoundError, match='does not exist; give the'):
        local_path(name, 'checkpoint')


def test_local_folder_is_preferred_to_a_hub_repository(tmp_path, monkeypatch):
    assert local_path('Vision-CAIR/vicuna-7b', 'LLM') is None
    (tmp_path / 'org' / 'name').mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert local_path('org/name', 'LLM').is_dir()


@pytest.mark.parametrize('module', [EVAViT, QFormer])
@pytest.mark.parametrize(
    'name, sentence',
    [
        ('YOUR_PATH_TO/eva_vit_g.pth', 'placeholder'),
        ('/no/such/eva_vit_g.pth', 'does not exist'),
        ('org/name', 'is no file'),
        ('.', 'holds no .*safetensors'),
    ],
)
def test_missing_checkpoints_are_refused(module, name, sentence):
    small = dict(arch='nano') if module is EVAViT else dict(width=24, depth=1)
    with pytest.raises(FileNotFoundError, match=sentence):
        module(**small, checkpoint=name)


def test_torch_dtype():
    assert torch_dtype('bfloat16') == torch.bfloat16
    if not torch.cuda.is_available():
        assert torch_dtype('auto') == torch.float32
    for name in ('int8', 'half precision', 'nn'):
        with pytest.raises(ValueError, match=f"dtype '{name}' is no float"):
            torch_dtype(name)
