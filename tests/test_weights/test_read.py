# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Tensor files are read completely, or refused."""

import json
import os
import pathlib
import random
import subprocess
import sys
import zipfile

import pytest
import torch
from safetensors.torch import load_file, save_file

from minigpt4.weights.read import LazyTensor, open_tensors
from minigpt4.weights.write import (
    write_pickle,
    write_safetensors,
    write_sharded,
)


@pytest.fixture
def tensors():
    torch.manual_seed(0)
    return {
        'a.weight': torch.randn(3, 4),
        'a.half': torch.randn(5).half(),
        'a.brain': torch.randn(2, 2).bfloat16(),
        'mark': torch.tensor([1, 2, 3], dtype=torch.uint8),
        'scalar': torch.tensor(4.0),
        'count': torch.tensor(7),
        'none': torch.empty(0, 3),
    }


def lazy(tensors):
    return {name: LazyTensor.of(t) for name, t in tensors.items()}


def assert_same(found, want):
    assert set(found) == set(want)
    for name, tensor in want.items():
        assert found[name].shape == tuple(tensor.shape)
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name].read(), tensor)


@pytest.mark.parametrize('wrap', [None, 'model', 'state_dict', 'module'])
def test_wrapping_dicts_are_unwrapped(tmp_path, tensors, wrap):
    content = {wrap: tensors, 'epoch': 3} if wrap else tensors
    torch.save(content, tmp_path / 'a.pth')
    assert_same(open_tensors(tmp_path / 'a.pth'), tensors)


def test_old_pickles_and_safetensors_are_read(tmp_path, tensors):
    torch.save(
        tensors, tmp_path / 'a.pth', _use_new_zipfile_serialization=False
    )
    save_file(tensors, tmp_path / 'a.safetensors')
    for name in ('a.pth', 'a.safetensors'):
        assert_same(open_tensors(tmp_path / name), tensors)


def test_safetensors_reads_our_files(tmp_path, tensors):
    path = tmp_path / 'deep' / 'a.safetensors'
    write_safetensors(path, lazy(tensors), dict(format='pt'))
    assert_same(lazy(load_file(path)), tensors)
    assert_same(open_tensors(path), tensors)
    assert os.listdir(path.parent) == ['a.safetensors']


@pytest.mark.parametrize('key', [None, 'model'])
@pytest.mark.parametrize('mmap', [False, True])
def test_torch_reads_our_pickles(tmp_path, tensors, key, mmap):
    path = tmp_path / 'a.pth'
    write_pickle(path, lazy(tensors), key)
    found = torch.load(path, weights_only=True, mmap=mmap)
    assert_same(lazy(found[key] if key else found), tensors)
    assert_same(open_tensors(path), tensors)
    assert os.listdir(tmp_path) == ['a.pth']
    with zipfile.ZipFile(path) as file:
        assert file.testzip() is None  # checksums are right
    torch.save({key: tensors} if key else tensors, tmp_path / 'b.pth')
    assert abs(path.stat().st_size - (tmp_path / 'b.pth').stat().st_size) < 999


@pytest.mark.parametrize('suffix', ['safetensors', 'bin'])
def test_shards(tmp_path, tensors, suffix):
    if suffix == 'safetensors':
        write_sharded(tmp_path, lazy(tensors), max_shard_bytes=48)
        assert len(list(tmp_path.glob('model-*-of-*.safetensors'))) > 1
    else:
        names = sorted(tensors)
        index = {}
        for number, half in enumerate((names[:3], names[3:])):
            file = f'pytorch_model-{number}.bin'
            torch.save({n: tensors[n] for n in half}, tmp_path / file)
            index |= dict.fromkeys(half, file)
        (tmp_path / 'pytorch_model.bin.index.json').write_text(
            json.dumps(dict(weight_map=index))
        )
    assert_same(open_tensors(tmp_path), tensors)
    lost = sorted(tmp_path.glob('*0*.safetensors')) or sorted(
        tmp_path.glob('*.bin')
    )
    lost[0].unlink()
    with pytest.raises(FileNotFoundError, match='lacks 1 of its .* shards'):
        open_tensors(tmp_path)


def test_one_shard_needs_no_index(tmp_path, tensors):
    write_sharded(tmp_path, lazy(tensors))
    assert os.listdir(tmp_path) == ['model.safetensors']
    assert_same(open_tensors(tmp_path), tensors)


def test_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match='holds no .*safetensors'):
        open_tensors(tmp_path)


def test_index_with_missing_tensors_is_refused(tmp_path, tensors):
    save_file(tensors, tmp_path / 'a.safetensors')
    index = dict(weight_map=dict.fromkeys([*tensors, 'more'], 'a.safetensors'))
    (tmp_path / 'model.safetensors.index.json').write_text(json.dumps(index))
    with pytest.raises(ValueError, match='lack 1 tensors .* e.g. more; down'):
        open_tensors(tmp_path)


class Code:
    """Create a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


@pytest.mark.parametrize(
    'kind, reason',
    [
        ('truncated.pth', 'truncated or damaged; .* use an older checkpoint'),
        ('truncated.safetensors', 'truncated or damaged; download it again'),
        ('truncated old.pth', 'no file of weights; .* an older checkpoint'),
        ('empty.pth', 'it is empty; download it again'),
        ('html.pth', 'it is a web page, .* from another address'),
        ('html.safetensors', 'it is a web page'),
        ('xml.bin', 'it is a web page'),
        ('pointer.pth', 'it is a Git LFS pointer'),
        (
            'code.pth',
            r'would run code \(pathlib\.Path\); .* refused',
        ),
        ('old code.pth', r'a pickle that would run code \(pathlib'),
        ('text.pth', 'truncated or no file of weights'),
    ],
)
def test_unreadable_files_are_explained(tmp_path, kind, reason):
    path = tmp_path / kind
    ran = tmp_path / 'ran'
    tensors = dict(a=torch.randn(1000))
    if kind == 'truncated.safetensors':
        save_file(tensors, path)
    elif kind.startswith('truncated'):
        torch.save(
            tensors, path, _use_new_zipfile_serialization='old' not in kind
        )
    elif 'code' in kind:
        torch.save(
            dict(tensors, code=Code(ran)),
            path,
            _use_new_zipfile_serialization=kind == 'code.pth',
        )
    else:
        text = dict(
            empty='',
            html='\n<!DOCTYPE html><html>Quota exceeded</html>',
            xml='<?xml version="1.0"?><Error>AccessDenied</Error>',
            pointer='version https://git-lfs.github.com/spec/v1\noid sha256:',
            text='weights',
        )[path.stem]
        path.write_text(text)
    if kind.startswith('truncated'):
        os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(
        ValueError, match=r'bytes\) cannot be read as weights: .*' + reason
    ) as error:
        open_tensors(path)
    assert str(path) in str(error.value)
    assert '\n' not in str(error.value)
    assert not ran.exists()


@pytest.mark.parametrize('old', [False, True])
def test_damaged_pickles_are_refused(tmp_path, old):
    """torch may raise anything; some damaged files are still readable."""
    path, draw = tmp_path / 'a.pth', random.Random(0)
    torch.save(
        dict(a=torch.ones(3)), path, _use_new_zipfile_serialization=not old
    )
    content = path.read_bytes()
    refused = 0
    for _ in range(60):
        damaged = bytearray(content)
        for _ in range(3):
            damaged[draw.randrange(300)] = draw.randrange(256)
        path.write_bytes(damaged)
        try:
            open_tensors(path)
        except ValueError as error:
            assert f'{path} (' in str(error)
            refused += 1
    assert refused > 20


@pytest.mark.parametrize('text', ['{"weight_map"', '{}', '[]'])
def test_damaged_index_is_refused(tmp_path, text):
    (tmp_path / 'model.safetensors.index.json').write_text(text)
    with pytest.raises(ValueError, match='index.json is no index of shards'):
        open_tensors(tmp_path)


def test_types_of_8_bits(tmp_path):
    tensors = dict(
        a=torch.ones(2).to(torch.float8_e4m3fn),
        b=torch.ones(2).to(torch.float8_e5m2),
    )
    save_file(tensors, tmp_path / 'a.safetensors')
    found = open_tensors(tmp_path / 'a.safetensors')
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name].read().float(), torch.ones(2))
    header = b'{"c":{"dtype":"U16","shape":[2],"data_offsets":[0,4]}}'
    (tmp_path / 'b.safetensors').write_bytes(
        len(header).to_bytes(8, 'little') + header + bytes(4)
    )
    with pytest.raises(ValueError, match='c in .* type U16; expected one of'):
        open_tensors(tmp_path / 'b.safetensors')


def test_file_without_a_dict_is_refused(tmp_path):
    torch.save(torch.ones(2), tmp_path / 'a.pth')
    with pytest.raises(ValueError, match='holds a Tensor; expected a dict'):
        open_tensors(tmp_path / 'a.pth')


def test_failed_write_keeps_the_existing_file(tmp_path, tensors):
    path = tmp_path / 'a.safetensors'
    write_safetensors(path, lazy(tensors))

    def fail():
        raise OSError('disk gone')

    broken = dict(lazy(tensors), late=LazyTensor((2,), torch.float32, fail))
    with pytest.raises(OSError, match='disk gone'):
        write_safetensors(path, broken)
    assert_same(open_tensors(path), tensors)
    assert os.listdir(tmp_path) == ['a.safetensors']


def test_tensor_of_another_shape_is_refused(tmp_path):
    wrong = LazyTensor((2, 3), torch.float32, lambda: torch.ones(3, 2))
    with pytest.raises(ValueError, match='a tensor was announced as'):
        write_safetensors(tmp_path / 'a.safetensors', dict(a=wrong))
    assert not os.listdir(tmp_path)


def test_casts_do_not_change_integers():
    cast = LazyTensor.of(torch.tensor([1.5])).to(torch.float16)
    assert cast.dtype == cast.read().dtype == torch.float16
    marks = LazyTensor.of(torch.tensor([1], dtype=torch.uint8))
    assert marks.to(torch.float16) is marks


# Anonymous memory and pages mapped from the source, each time a tensor was
# read. Pages of libraries are not counted: they depend on the system's read
# ahead. Files are unmapped after 64 MB.
PEAK = r"""
import dataclasses, re, sys
from pathlib import Path
import torch
from minigpt4.weights import read as reader
from minigpt4.weights.write import write_pickle, write_safetensors

reader.UNMAP_BYTES = 2**26

def memory(source):
    text = Path('/proc/self/smaps').read_text()
    areas = re.split(r'(?m)^(?=[0-9a-f]+-)', text)
    mapped = [a for a in areas if a.partition('\n')[0].endswith(source)]
    others = [a for a in areas if a not in mapped]
    sums = [
        sum(int(n) for a in chosen for n in re.findall(word + r': +(\d+)', a))
        for word, chosen in (('Rss', mapped), ('Anonymous', others))
    ]
    return sum(sums) // 1024

def watch(tensor):
    def read():
        value = tensor.read()
        peaks.append(memory(source))
        return value
    return dataclasses.replace(tensor, read=read)

source, out = sys.argv[1:]
peaks = [memory(source)]
tensors = reader.open_tensors(source)
write = write_pickle if out.endswith('.pth') else write_safetensors
cast = {n: watch(t.to(torch.bfloat16)) for n, t in tensors.items()}
write(out, cast)
print(max(peaks) - peaks[0])
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ('suffix', 'write'),
    [('.pth', write_pickle), ('.safetensors', write_safetensors)],
)
def test_memory_is_bounded_by_the_largest_tensor(tmp_path, suffix, write):
    """512 MB are read and 256 MB written; mapped pages are released."""
    block = torch.ones(2**23)  # 32 MB
    tensors = {str(i): LazyTensor.of(block) for i in range(16)}
    source, out = tmp_path / f'a{suffix}', tmp_path / f'out{suffix}'
    write(source, tensors)
    done = subprocess.run(
        [sys.executable, '-c', PEAK, source, out],
        capture_output=True,
        text=True,
        # a fixed threshold: freed blocks go back to the system at once
        env=os.environ | {'MALLOC_MMAP_THRESHOLD_': str(2**20)},
    )
    assert done.returncode == 0, done.stderr
    peak = int(done.stdout)
    assert 32 < peak < 256


def test_values_beyond_a_type_are_refused():
    big = LazyTensor.of(torch.tensor([1.0, 70000.0]))
    with pytest.raises(ValueError, match='x holds values beyond 65,504'):
        big.to(torch.float16, 'x').read()
    assert torch.equal(
        big.to(torch.bfloat16).read(), big.read().to(torch.bfloat16)
    )


def test_format_is_detected_from_the_content(tmp_path, tensors):
    """safetensors #414, sd-scripts #990: the suffix is wrong."""
    save_file(tensors, tmp_path / 'a.pth')
    torch.save(tensors, tmp_path / 'b.safetensors')
    for name in ('a.pth', 'b.safetensors'):
        assert_same(open_tensors(tmp_path / name), tensors)


def test_single_file_is_preferred_to_an_index(tmp_path, tensors):
    """As in transformers."""
    save_file(tensors, tmp_path / 'model.safetensors')
    (tmp_path / 'model.safetensors.index.json').write_text(
        '{"weight_map": {"a": "model-00001-of-00002.safetensors"}}'
    )
    assert_same(open_tensors(tmp_path), tensors)


@pytest.mark.parametrize('path', ['../a.safetensors', '/etc/passwd'])
def test_index_with_files_outside_the_folder_is_refused(tmp_path, path):
    (tmp_path / 'model.safetensors.index.json').write_text(
        json.dumps(dict(weight_map={'a': path}))
    )
    with pytest.raises(ValueError, match='which is not in its folder'):
        open_tensors(tmp_path)
