# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""A head is loaded whole, or refused: the same when loading and converting."""

import json
import pathlib
import re

import numpy as np
import pytest
import torch
from mmengine.runner import load_checkpoint
from safetensors.torch import save_file

from minigpt4.weights.layouts import from_layout
from minigpt4.weights.read import open_tensors

WEIGHT, BIAS = 'llama_proj.weight', 'llama_proj.bias'


@pytest.fixture
def head() -> dict:
    """A head of ``tiny_model``, under the official names."""
    torch.manual_seed(3)
    return {WEIGHT: torch.randn(32, 24), BIAS: torch.randn(32)}


@pytest.fixture
def both(tiny_model, tmp_path):
    """Function of a file's content: how it is loaded, and converted.

    Each is a pair of weight and bias, or the sentence that refuses it.
    """
    layer = tiny_model.head.layers[0]
    shapes = {
        f'head.layers.0.{n}': tuple(p.shape)
        for n, p in layer.named_parameters()
    }

    def load(file):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
        load_checkpoint(tiny_model, str(file), map_location='cpu')
        return layer.weight.detach().clone(), layer.bias.detach().clone()

    def convert(file):
        found, report = from_layout('head', open_tensors(file), shapes)
        report.check(file, 'the head')
        return tuple(found[name].read().float() for name in shapes)

    def results(content):
        file = tmp_path / 'head.pth'
        torch.save(content, file)
        found = []
        for use in (load, convert):
            try:
                found.append(use(file))
            except ValueError as error:
                assert '\n' not in str(error)
                found.append(str(error))
        return found

    return results


def prefixed(prefix, head):
    return {prefix + name: value for name, value in head.items()}


@pytest.mark.parametrize(
    'prefix',
    [
        'module.',
        '_orig_mod.',
        'model.',
        'base_model.model.',
        '_forward_module.',
        'module._orig_mod.',
        '_orig_mod.module.',
        'model.module._orig_mod.',
    ],
)
@pytest.mark.parametrize('wrap', [(), ('model',), ('state_dict',)])
def test_prefixes_of_wrapping_modules(both, head, prefix, wrap):
    """OpenTAD #44, minimind #594: DDP and torch.compile."""
    content = prefixed(prefix, head)
    for key in wrap:
        content = {key: content}
    for found in both(content):
        assert torch.equal(found[0], head[WEIGHT])
        assert torch.equal(found[1], head[BIAS])


def test_names_of_a_compiled_layer(both, head):
    compiled = {
        f'head._orig_mod.layers.0.{n.rpartition(".")[2]}': t
        for n, t in head.items()
    }
    for found in both(compiled):
        assert torch.equal(found[0], head[WEIGHT])


@pytest.mark.parametrize(
    'keys',
    [
        ('model_state_dict',),
        ('model_state',),
        ('module',),
        ('net',),
        ('state_dict', 'model'),
        ('model', 'state_dict'),
        ('state_dict', 'state_dict'),
    ],
)
def test_wrapping_dicts(both, head, keys):
    content = head
    for key in reversed(keys):
        content = {key: content, 'epoch': 3}
    for found in both(content):
        assert torch.equal(found[0], head[WEIGHT])


@pytest.mark.parametrize(
    'change',
    [
        lambda t: t.numpy(),
        lambda t: t.numpy().astype('>f4'),
        lambda t: t.numpy().astype('float64'),
        lambda t: t.double(),
        lambda t: torch.nn.Parameter(t),
        lambda t: t.T.contiguous().T,
    ],
)
def test_arrays_and_strided_tensors_are_loaded(both, head, change):
    """pytorch/pytorch #67549, deepmd-kit #4147: NumPy arrays."""
    for found in both({n: change(t) for n, t in head.items()}):
        assert torch.equal(found[0], head[WEIGHT])
        assert torch.equal(found[1], head[BIAS])


def test_half_precision_arrays_are_loaded(both, head):
    want = head[WEIGHT].half()
    halves = {n: t.numpy().astype(np.float16) for n, t in head.items()}
    for found in both(halves):
        assert torch.equal(found[0], want.float())


@pytest.mark.parametrize(
    ('name', 'change', 'said'),
    [
        (BIAS, lambda t: t.tolist(), 'bias in .* is a list; expected a'),
        (BIAS, lambda t: 1.0, 'is a float; expected a tensor'),
        (BIAS, lambda t: None, 'is a NoneType; expected a tensor'),
        (BIAS, lambda t: 'x', 'is a str; expected a tensor'),
        (WEIGHT, lambda t: t.to_sparse(), 'weight in .* is a sparse tensor'),
        (WEIGHT, lambda t: t.to('meta'), 'is a tensor without data'),
        (WEIGHT, lambda t: t.long(), 'int64'),
        (WEIGHT, lambda t: t.to(torch.complex64), 'complex64'),
        (WEIGHT, lambda t: t.T.contiguous(), r'\(24, 32\)'),
        (BIAS, lambda t: t.sum(), r'\(\)'),
    ],
)
def test_values_of_other_types_are_refused(both, head, name, change, said):
    for found in both({**head, name: change(head[name])}):
        assert isinstance(found, str) and re.search(said, found), found


@pytest.mark.parametrize(
    ('content', 'said'),
    [
        (lambda h: {**h, **prefixed('module.', h)}, 'holds both'),
        (lambda h: {**h, **prefixed('_orig_mod.', h)}, 'holds both'),
        (
            lambda h: {WEIGHT: h[WEIGHT], f'module.{BIAS}': h[BIAS]},
            "the prefix 'module.'",
        ),
        (
            lambda h: dict(
                state_dict={WEIGHT: h[WEIGHT], f'module.{BIAS}': h[BIAS]}
            ),
            "the prefix 'module.'",
        ),
        (
            lambda h: {**h, 'head.layers.0.weight': h[WEIGHT]},
            'holds two heads',
        ),
        (lambda h: dict(model=h, state_dict=h), 'under more than one of'),
        (lambda h: dict(model=[h]), 'holds a list'),
        (lambda h: dict(state_dict=[h]), 'holds a list'),
        (lambda h: [h], 'holds a list; expected a dict'),
        (lambda h: h[WEIGHT], 'holds a Tensor; expected a dict'),
        (lambda h: {0: h[WEIGHT]}, 'a name that is no text'),
        (lambda h: {WEIGHT: h[WEIGHT]}, 'lacks'),
        (lambda h: {}, 'lacks'),
    ],
)
def test_ambiguous_and_partial_files_are_refused(both, head, content, said):
    for found in both(content(head)):
        assert isinstance(found, str) and said in found, found


def test_nan_and_infinity_are_refused(both, head):
    head[WEIGHT][3, 4] = float('nan')
    assert 'holds 1 values that are NaN' in both(head)[0]
    head[WEIGHT][3, 4] = float('inf')
    assert 'NaN or infinite' in both(head)[0]


def test_safetensors_head_is_loaded(tiny_model, tmp_path):
    """TRIDENT #172, sam3 #599."""
    state = {k: v.clone() for k, v in tiny_model.state_dict().items()}
    save_file(state, tmp_path / 'head.safetensors')
    layer = tiny_model.head.layers[0]
    torch.nn.init.zeros_(layer.weight)
    load_checkpoint(tiny_model, str(tmp_path / 'head.safetensors'))
    assert torch.equal(layer.weight, state['head.layers.0.weight'])


def test_errors_name_the_file(tiny_model, tmp_path):
    for name in ('a.pth', 'b.safetensors'):
        file = tmp_path / name
        content = {WEIGHT: torch.ones(32, 24)}
        if file.suffix == '.pth':
            torch.save(content, file)
        else:
            save_file(content, file)
        with pytest.raises(ValueError, match='lacks head.layers.0.bias') as e:
            load_checkpoint(tiny_model, str(file))
        assert str(file) in str(e.value)


@pytest.mark.parametrize(
    'mark',
    [
        torch.ones(4),
        torch.tensor(list(b'{}'), dtype=torch.uint8),
        torch.tensor(list(b'[1]'), dtype=torch.uint8),
        torch.tensor([1, 2, 3], dtype=torch.uint8),
    ],
)
def test_damaged_fingerprint_is_refused(tiny_model, head, mark):
    with pytest.raises(ValueError, match='fingerprint of the LLM in .* dama'):
        tiny_model.load_state_dict({**head, 'llm_fingerprint': mark})


def test_parameter_that_was_not_set_is_refused(tiny_model, head, monkeypatch):
    """A load never ends with a random layer, for any reason."""
    linear = type(tiny_model.head.layers[0])
    monkeypatch.setattr(linear, '_load_from_state_dict', lambda *_, **__: None)
    with pytest.raises(ValueError, match='was not set from the checkpoint'):
        tiny_model.load_state_dict(head)


def test_bit_flip_in_a_pickle_is_found(tmp_path, head):
    file = tmp_path / 'head.pth'
    torch.save(dict(model=head), file)
    data = bytearray(file.read_bytes())
    place = data.index(head[WEIGHT].numpy().tobytes()) + 100
    data[place] ^= 1
    file.write_bytes(data)
    with pytest.raises(ValueError, match='is damaged .*CRC'):
        open_tensors(file)
    torch.load(file, weights_only=True)  # does not notice


def test_pickles_written_without_checksums_are_read(tmp_path, head):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(head, tmp_path / 'head.pth')
    finally:
        torch.serialization.set_crc32_options(True)
    assert set(open_tensors(tmp_path / 'head.pth')) == set(head)


@pytest.mark.parametrize(
    ('content', 'said'),
    [
        (b'', 'is empty'),
        (b'version https://git-lfs.github.com/spec/v1', 'Git LFS pointer'),
        (b'<!DOCTYPE html>', 'a web page'),
        (bytes(999), 'begins with zeros'),
        (json.dumps(dict(a=1)).encode(), 'no file of weights'),
    ],
)
def test_other_files_are_refused(tiny_model, tmp_path, content, said):
    for name in ('a.pth', 'a.safetensors'):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=said if name == 'a.pth' else ''):
            load_checkpoint(tiny_model, str(tmp_path / name))
    (tmp_path / 'folder.pth').mkdir()
    with pytest.raises(ValueError, match='expected a regular file'):
        load_checkpoint(tiny_model, str(tmp_path / 'folder.pth'))
    with pytest.raises(FileNotFoundError, match='gone.pth does not exist'):
        load_checkpoint(tiny_model, str(tmp_path / 'gone.pth'))


class Code:
    """Create a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


def test_no_environment_variable_allows_code(
    tiny_model, tmp_path, head, monkeypatch
):
    monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')
    ran = tmp_path / 'ran'
    torch.save(dict(head, x=Code(ran)), tmp_path / 'a.pth')
    with pytest.raises(ValueError, match='would run code'):
        load_checkpoint(tiny_model, str(tmp_path / 'a.pth'))
    assert not ran.exists()
