# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The header of a GGUF file is read, and damage is found."""

import struct
from pathlib import Path

import pytest
from gguf import GGUFReader
from tests.gguf_files import write_gguf

from minigpt4.weights.gguf_header import is_gguf, read_header


@pytest.fixture(scope='module')
def file(tmp_path_factory) -> Path:
    return write_gguf(tmp_path_factory.mktemp('gguf') / 'a.gguf', kind='Q4_1')


def test_header_is_that_of_the_reference(file):
    header, reader = read_header(file), GGUFReader(file)
    assert header.architecture == 'llama'
    fields = {
        key: field.contents()
        for key, field in reader.fields.items()
        if not key.startswith('GGUF.')
    }
    assert header.metadata == fields
    assert list(header.tensors) == [tensor.name for tensor in reader.tensors]
    for expected in reader.tensors:
        tensor = header.tensors[expected.name]
        assert tensor.shape == tuple(expected.shape.tolist()[::-1])
        assert tensor.type_name == expected.tensor_type.name
        assert tensor.offset == expected.data_offset
        assert tensor.n_bytes == expected.n_bytes
        assert tensor.n_values == expected.n_elements


def test_gguf_file_is_known_by_name_or_content(file, tmp_path):
    (tmp_path / 'llm').write_bytes(file.read_bytes())
    assert is_gguf(file) and is_gguf(tmp_path / 'llm')
    (tmp_path / 'llm').write_bytes(b'PK\x03\x04')
    assert not is_gguf(tmp_path / 'llm') and not is_gguf(tmp_path)
    assert not is_gguf(tmp_path / 'missing.gguf')


def test_every_truncation_is_found(file, tmp_path):
    content = file.read_bytes()
    copy = tmp_path / 'a.gguf'
    for end in [*range(5, 400, 7), 2000, 5000, len(content) - 64]:
        copy.write_bytes(content[:end])
        with pytest.raises(ValueError, match='truncated.*download it again'):
            read_header(copy)


def version(number: int) -> bytes:
    return b'GGUF' + struct.pack('<IQQ', number, 0, 0) + bytes(100)


def entries(*values: bytes) -> bytes:
    """A file of version 3 with one entry of the metadata."""
    return b'GGUF' + struct.pack('<IQQ', 3, 0, 1) + b''.join(values)


KEY = struct.pack('<Q', 1) + b'k'


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (b'', 'is empty'),
        (b'PK\x03\x04' + bytes(99), r"begins with b'PK\\x03\\x04'"),
        (b'<html>', 'is a web page'),
        (b'version https://git-lfs.github.com/spec/v1', 'Git LFS pointer'),
        (version(1), 'GGUF version 1; expected 2 or 3'),
        (version(50331648), 'GGUF version'),  # of the other byte order
        (entries(KEY, struct.pack('<I', 99)), 'damaged header'),
        (
            entries(KEY, struct.pack('<IIQ', 9, 8, 2**60)),
            'truncated within its header',
        ),
        (
            entries(KEY, struct.pack('<IIQ', 9, 4, 2**60)),
            'truncated within its header',
        ),
        (
            entries(KEY, struct.pack('<IQ', 8, 2), b'\xff\xff'),
            'damaged header',
        ),
        (
            entries(KEY, struct.pack('<I', 9) * 40 + bytes(99)),
            'damaged header|truncated',
        ),
    ],
)
def test_damaged_header_is_refused(tmp_path, content, message):
    path = tmp_path / 'a.gguf'
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        read_header(path)
    assert '\n' not in str(error.value)


def test_every_changed_byte_of_the_header_gives_one_kind_of_error(
    file, tmp_path
):
    content = bytearray(file.read_bytes())
    copy = tmp_path / 'a.gguf'
    n_errors = 0
    for position in range(0, 1200, 3):
        content[position] ^= 0xFF
        copy.write_bytes(content)
        content[position] ^= 0xFF
        try:
            read_header(copy)
        except ValueError as error:
            assert '\n' not in str(error)
            n_errors += 1
    assert n_errors > 50


def test_tensor_of_an_unknown_type_is_refused(file, tmp_path):
    name = b'output_norm.weight'
    content = file.read_bytes()
    position = content.index(name) + len(name) + 4 + 8  # one dimension
    copy = tmp_path / 'a.gguf'
    copy.write_bytes(
        content[:position] + struct.pack('<I', 99) + content[position + 4 :]
    )
    with pytest.raises(ValueError, match='GGML type 99.*another quantisation'):
        read_header(copy)


def test_one_file_of_several_is_refused(file, tmp_path):
    part = tmp_path / 'a-00001-of-00002.gguf'
    part.write_bytes(file.read_bytes())
    with pytest.raises(ValueError, match='one of 2 files.*gguf-split --merge'):
        read_header(part)
    part = write_gguf(
        tmp_path / 'a.gguf', change=lambda w: w.add_uint16('split.count', 3)
    )
    with pytest.raises(ValueError, match='one of 3 files'):
        read_header(part)
