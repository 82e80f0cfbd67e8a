# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Weights are loaded whole, or one sentence says why not."""

import os
import pathlib

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from minigpt4.models import EVAViT, QFormer
from minigpt4.models.weights import (
    load_weights,
    local_path,
    read_tensors,
    torch_dtype,
)


@pytest.fixture
def linear():
    torch.manual_seed(0)
    return nn.Linear(3, 2)


def load(path):
    torch.manual_seed(1)
    module = nn.Linear(3, 2)
    load_weights(module, str(path), select=lambda name: name)
    return module


@pytest.mark.parametrize('wrap', [None, 'model', 'state_dict', 'module'])
def test_wrapping_keys_are_opened(tmp_path, linear, wrap):
    tensors = linear.state_dict()
    torch.save(
        {wrap: tensors, 'epoch': 3} if wrap else tensors, tmp_path / 'a.pth'
    )
    assert torch.equal(load(tmp_path / 'a.pth').weight, linear.weight)


def test_files_of_old_torch_and_safetensors(tmp_path, linear):
    torch.save(
        linear.state_dict(),
        tmp_path / 'a.pth',
        _use_new_zipfile_serialization=False,
    )
    save_file(linear.state_dict(), tmp_path / 'a.safetensors')
    for name in ('a.pth', 'a.safetensors'):
        assert torch.equal(load(tmp_path / name).weight, linear.weight)


def test_mismatches_name_a_tensor_and_change_nothing(tmp_path, linear):
    path = tmp_path / 'a.pth'
    for tensors, sentence in (
        (dict(weight=linear.weight), 'lacks 1 of 2 tensors of Linear.* bias'),
        (
            dict(linear.state_dict(), more=torch.ones(1)),
            'has unknown 1 of 2 tensors of Linear, e.g. more',
        ),
        (
            dict(weight=torch.ones(2, 4), bias=linear.bias),
            r'misshaped 1 .* weight \(2, 4\) instead of \(2, 3\)',
        ),
    ):
        torch.save(tensors, path)
        with pytest.raises(ValueError, match=sentence) as error:
            load(path)
        assert str(path) in str(error.value)
        assert '\n' not in str(error.value)
    before = linear.weight.clone()
    with pytest.raises(ValueError):
        load_weights(linear, str(path), select=lambda name: name)
    assert torch.equal(linear.weight, before)


def test_left_over_tensors_are_not_an_error(tmp_path, linear):
    torch.save(
        dict(linear.state_dict(), head=torch.ones(1)), tmp_path / 'a.pth'
    )
    module = nn.Linear(3, 2)
    load_weights(
        module,
        str(tmp_path / 'a.pth'),
        select=lambda name: None if name == 'head' else name,
    )
    assert torch.equal(module.bias, linear.bias)


class Code:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


@pytest.mark.parametrize(
    'kind',
    ['truncated', 'empty', 'html', 'html.safetensors', 'code', 'old code'],
)
def test_unreadable_files(tmp_path, linear, kind):
    path = tmp_path / 'a.pth'
    ran = tmp_path / 'ran'
    if kind == 'truncated':
        torch.save(dict(a=torch.randn(1000)), path)
        os.truncate(path, path.stat().st_size // 2)
    elif kind == 'empty':
        path.touch()
    elif kind.startswith('html'):
        path = path.with_suffix('.safetensors' if '.' in kind else '.pth')
        path.write_text('<!DOCTYPE html><html>Quota exceeded</html>')
    else:
        torch.save(
            dict(linear.state_dict(), code=Code(ran)),
            path,
            _use_new_zipfile_serialization=kind == 'code',
        )
    with pytest.raises(
        ValueError,
        match=rf'\({path.stat().st_size} bytes\) cannot be read as '
        'weights.*download it again',
    ) as error:
        read_tensors(str(path))
    assert str(path) in str(error.value)
    assert not ran.exists()


def test_file_without_a_dict(tmp_path):
    torch.save(torch.ones(2), tmp_path / 'a.pth')
    with pytest.raises(ValueError, match='holds a Tensor; expected a dict'):
        read_tensors(str(tmp_path / 'a.pth'))


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
        ('.', 'is no file'),
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


def test_unreachable_url_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    with pytest.raises(ConnectionError, match='could not be fetched .* give'):
        read_tensors('http://127.0.0.1:9/eva_vit_g.pth')
