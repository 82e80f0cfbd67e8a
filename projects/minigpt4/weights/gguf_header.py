# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Read the header of a GGUF file: metadata, and where its tensors are.

Source: the format's specification, ggml@master docs/gguf.md, versions 2 and 3.
The reader of the package ``gguf`` was tried: it makes several arrays of each
token (2.6 s of CPU time for a vocabulary of 49,152, this module 0.09 s), and
accepts sizes that a damaged header names. Standard library only, so that
``minigpt4 doctor`` can use it where the package itself cannot be imported.
"""

import mmap
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..utils.regular_files import open_regular
from .file_errors import weights_file_error

MAGIC = b'GGUF'
_VERSIONS = (2, 3)
_SHARD = re.compile(r'-\d{5}-of-(\d{5})\.gguf$')
_AGAIN = 'download it again'
# value types: formats of struct
_SCALARS = {
    **{0: 'B', 1: 'b', 2: 'H', 3: 'h', 4: 'I', 5: 'i', 6: 'f', 7: '?'},
    **{10: 'Q', 11: 'q', 12: 'd'},
}
_STRING, _ARRAY = 8, 9
_MAX_DIMENSIONS = 4
# tensor types: name, values per block, bytes per block
TENSOR_TYPES = {
    0: ('F32', 1, 4),
    1: ('F16', 1, 2),
    2: ('Q4_0', 32, 18),
    3: ('Q4_1', 32, 20),
    6: ('Q5_0', 32, 22),
    7: ('Q5_1', 32, 24),
    8: ('Q8_0', 32, 34),
    10: ('Q2_K', 256, 84),
    11: ('Q3_K', 256, 110),
    12: ('Q4_K', 256, 144),
    13: ('Q5_K', 256, 176),
    14: ('Q6_K', 256, 210),
    16: ('IQ2_XXS', 256, 66),
    17: ('IQ2_XS', 256, 74),
    18: ('IQ3_XXS', 256, 98),
    19: ('IQ1_S', 256, 50),
    20: ('IQ4_NL', 32, 18),
    21: ('IQ3_S', 256, 110),
    22: ('IQ2_S', 256, 82),
    23: ('IQ4_XS', 256, 136),
    29: ('IQ1_M', 256, 56),
    30: ('BF16', 1, 2),
}


@dataclass(frozen=True)
class GgufTensor:
    """A tensor of a GGUF file.

    Attributes:
        shape: Its shape, in the order of torch.
        type_number: Its type, a key of ``TENSOR_TYPES``.
        offset: Its first byte in the file.
        n_bytes: Its bytes.
    """

    shape: tuple[int, ...]
    type_number: int
    offset: int
    n_bytes: int

    @property
    def type_name(self) -> str:
        """Its type, e.g. ``'Q4_1'``."""
        return TENSOR_TYPES[self.type_number][0]

    @property
    def n_values(self) -> int:
        """Number of its values."""
        count = 1
        for length in self.shape:
            count *= length
        return count


@dataclass(frozen=True)
class GgufHeader:
    """The header of a GGUF file.

    Attributes:
        path: The file.
        metadata: Numbers, booleans, strings and lists of them by key.
        tensors: Its tensors by name.
    """

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, GgufTensor]

    @property
    def architecture(self) -> str:
        """The architecture of the model, e.g. ``'llama'``."""
        return str(self.metadata.get('general.architecture', 'unknown'))


def is_gguf(path: Path) -> bool:
    """Whether a file is a GGUF file, by its name or its first bytes."""
    if not path.is_file():
        return False
    if path.suffix.lower() == '.gguf':
        return True
    with open_regular(path) as file:
        return file.read(len(MAGIC)) == MAGIC


def read_header(path: Path) -> GgufHeader:
    """Read the header of a GGUF file, and check that the file is complete.

    Args:
        path: The file.

    Raises:
        ValueError: It is no GGUF file of a supported version, is one of
            several parts, truncated or damaged, or has tensors of a type
            that is not supported.
        OSError: It cannot be read.
    """
    with open_regular(path) as file:
        head = file.read(512)
        found = weights_file_error(head)
        if found is not None:
            raise ValueError(f'{path} {found[0]}; {found[1]}.')
        if not head.startswith(MAGIC):
            raise ValueError(
                f'{path} is not a GGUF file: it begins with {head[:4]!r}, '
                f'expected {MAGIC!r}; give the .gguf file of an LLM.'
            )
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                return _parse(path, data)
            except struct.error as error:
                raise ValueError(
                    f'{path} ({len(data):,} bytes) is truncated within its '
                    f'header; {_AGAIN}.'
                ) from error
            except (UnicodeDecodeError, RecursionError) as error:
                raise ValueError(
                    f'{path} has a damaged header; {_AGAIN}.'
                ) from error


class _Cursor:
    """Reads values one after the other."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.position = 0

    def scalars(self, code: str, count: int) -> tuple:
        """Read numbers of one type.

        Raises:
            struct.error: The file ends before.
        """
        if count > len(self.data) - self.position:  # of a byte or more each
            raise struct.error('the file ends before')
        form = f'<{count}{code}'
        values = struct.unpack_from(form, self.data, self.position)
        self.position += struct.calcsize(form)
        return values

    def string(self) -> str:
        """Read a string; see :meth:`scalars`."""
        (length,) = self.scalars('Q', 1)
        end = self.position + length
        if end > len(self.data):
            raise struct.error('the file ends before')
        text = self.data[self.position : end]
        self.position = end
        return text.decode('utf-8')

    def value(self, kind: int, depth: int = 0) -> Any:
        """Read a value of a type by its number.

        Raises:
            struct.error: The file ends before.
            RecursionError: The type is unknown, or nested too deeply.
        """
        if kind in _SCALARS:
            return self.scalars(_SCALARS[kind], 1)[0]
        if kind == _STRING:
            return self.string()
        if kind != _ARRAY or depth > 1:
            raise RecursionError(f'value of type {kind}')
        inner, count = self.scalars('I', 1)[0], self.scalars('Q', 1)[0]
        if inner in _SCALARS:
            return list(self.scalars(_SCALARS[inner], count))
        if count > len(self.data) - self.position:
            raise struct.error('the file ends before')
        return [self.value(inner, depth + 1) for _ in range(count)]


def _parse(path: Path, data: mmap.mmap) -> GgufHeader:
    """Parse a header; see :func:`read_header`."""
    cursor = _Cursor(data)
    cursor.position = len(MAGIC)
    (version,) = cursor.scalars('I', 1)
    if version not in _VERSIONS:
        raise ValueError(
            f'{path} is of GGUF version {version}; expected '
            f'{" or ".join(map(str, _VERSIONS))}: convert the LLM again.'
        )
    n_tensors, n_values = cursor.scalars('Q', 2)
    if max(n_tensors, n_values) > len(data):
        raise struct.error('the file ends before')
    metadata = {}
    for _ in range(n_values):
        key = cursor.string()
        metadata[key] = cursor.value(cursor.scalars('I', 1)[0])
    _refuse_shard(path, metadata)
    entries = []
    for _ in range(n_tensors):
        name = cursor.string()
        (n_dimensions,) = cursor.scalars('I', 1)
        if n_dimensions > _MAX_DIMENSIONS:
            raise RecursionError(f'{n_dimensions} dimensions')
        shape = cursor.scalars('Q', n_dimensions)[::-1]
        type_number, offset = *cursor.scalars('I', 1), *cursor.scalars('Q', 1)
        entries.append((name, shape, type_number, offset))
    alignment = metadata.get('general.alignment', 32)
    if type(alignment) is not int or alignment <= 0:
        raise RecursionError('alignment')
    begin = cursor.position + -cursor.position % alignment
    tensors = {}
    for name, shape, type_number, offset in entries:
        if type_number not in TENSOR_TYPES:
            raise ValueError(
                f'{path}: the tensor {name} is of GGML type {type_number}, '
                'which is not supported; give the LLM in another '
                'quantisation, e.g. Q8_0 or Q4_K_M.'
            )
        _, block, block_bytes = TENSOR_TYPES[type_number]
        count = 1
        for length in shape:
            count *= length
        if not shape or count == 0 or shape[-1] % block:
            raise RecursionError(f'shape {shape}')
        n_bytes = count // block * block_bytes
        tensors[name] = GgufTensor(shape, type_number, begin + offset, n_bytes)
    end = max((t.offset + t.n_bytes for t in tensors.values()), default=begin)
    if end > len(data):
        raise ValueError(
            f'{path} is truncated: it has {len(data):,} bytes, its header '
            f'says {end:,}; {_AGAIN}.'
        )
    return GgufHeader(path, metadata, tensors)


def _refuse_shard(path: Path, metadata: dict[str, Any]) -> None:
    """Refuse one of several files of an LLM.

    Raises:
        ValueError: It is one.
    """
    match = _SHARD.search(path.name)
    count = metadata.get('split.count', int(match[1]) if match else 1)
    if isinstance(count, int) and count > 1:
        raise ValueError(
            f'{path} is one of {count} files of an LLM, which are not read '
            'one by one; join them with "llama-gguf-split --merge" and give '
            'the joined file.'
        )
