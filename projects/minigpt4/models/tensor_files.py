# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Files of named tensors, read one tensor at a time."""

import json
import weakref
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .checksum import check_weights

SHIPPED = Path(__file__).parents[1] / 'nano' / 'weights'
# what others wrap a state dict in: MiniGPT-4 and LAVIS, mmengine, DeepSpeed
_WRAPPERS = ('model', 'state_dict', 'module')
# a mapped file counts as memory while its pages are held; it is let go of
# after this many bytes
_LET_GO_BYTES = 2**29
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
    """A tensor that is read when it is asked for.

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
        """A tensor that is there already."""
        return cls(tuple(tensor.shape), tensor.dtype, lambda: tensor)

    def to(self, dtype: torch.dtype | None) -> 'LazyTensor':
        """The same in another type, if it is floating-point; None keeps it."""
        if dtype is None or dtype == self.dtype:
            return self
        if not self.dtype.is_floating_point:
            return self
        return LazyTensor(self.shape, dtype, lambda: self.read().to(dtype))

    @property
    def nbytes(self) -> int:
        """Its bytes."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


def open_tensors(source: 'str | Path') -> dict[str, LazyTensor]:
    """The tensors of a file, a folder or a URL, by their names there.

    Nothing is read but names, shapes and types. Pickles are read with
    ``weights_only``, so that no code of theirs runs; a wrapping key
    (``model``, ``state_dict``, ``module``) is opened.

    Args:
        source: A ``.safetensors`` file, a pickle of PyTorch, a folder with
            one or more shards of either, a URL, or ``'nano/...'`` for what
            the package ships.

    Raises:
        FileNotFoundError: There is no such file, or a shard of it is missing.
        ConnectionError: The URL cannot be reached.
        ValueError: It holds no weights: truncated, a web page, code, ...
    """
    name = str(source)
    if name.startswith(('http://', 'https://')):
        from ..download import fetch

        path = fetch(name)
    elif name.startswith('nano/') and not Path(name).exists():
        path = SHIPPED / name.removeprefix('nano/')
    else:
        path = Path(source).expanduser()
    if path.is_dir():
        return _open_folder(path)
    if not path.is_file():
        raise FileNotFoundError(
            f'{name} is no file; give the path of the downloaded weights.'
        )
    return _open_file(path)


def _open_folder(folder: Path) -> dict[str, LazyTensor]:
    """The shards of a Hugging Face folder as one dict."""
    for index in (
        'model.safetensors.index.json',
        'pytorch_model.bin.index.json',
    ):
        if (folder / index).is_file():
            places = _read_index(folder / index)
            shards = sorted(set(places.values()))
            break
    else:
        places = None
        shards = sorted(path.name for path in folder.glob('*.safetensors'))
        shards = shards or sorted(
            path.name for path in folder.glob('pytorch_model*.bin')
        )
    if not shards:
        raise FileNotFoundError(
            f'the folder {folder} holds no *.safetensors and no '
            'pytorch_model*.bin; give a folder with weights.'
        )
    lost = [name for name in shards if not (folder / name).is_file()]
    if lost:
        raise FileNotFoundError(
            f'the folder {folder} lacks {len(lost)} of its {len(shards)} '
            f'shards, e.g. {lost[0]}; download the rest.'
        )
    tensors: dict[str, LazyTensor] = {}
    for shard in shards:
        tensors |= _open_file(folder / shard)
    lost = sorted(set(places or ()) - set(tensors))
    if lost:
        raise ValueError(
            f'the shards of {folder} lack {len(lost)} tensors that its index '
            f'names, e.g. {lost[0]}; download them again.'
        )
    return tensors


def _read_index(path: Path) -> dict[str, str]:
    """The shard of each tensor."""
    try:
        return dict(json.loads(path.read_text())['weight_map'])
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(
            f'{path} is no index of shards; download it again.'
        ) from error


def _open_file(path: Path) -> dict[str, LazyTensor]:
    if _is_safetensors(path):
        return _open_safetensors(path)
    return _open_pickle(path)


def _is_safetensors(path: Path) -> bool:
    return path.suffix == '.safetensors'


def _unreadable(path: Path, error: Exception) -> ValueError:
    """The error to raise for a file that is no weights."""
    return ValueError(
        f'{path} ({path.stat().st_size:,} bytes) cannot be read as weights: '
        f'{_what_is_wrong(path, error)}.'
    )


def _what_is_wrong(path: Path, error: Exception) -> str:
    """Why a file is no weights, and what to do."""
    with open(path, 'rb') as file:
        head = file.read(512)
    again = 'download it again'
    if not head:
        return f'it is empty; {again}'
    if head.lstrip().lower().startswith((b'<!doctype', b'<html', b'<?xml')):
        return (
            'it is a web page, which the server sent instead of the file; '
            f'{again} from another address'
        )
    if head.startswith(b'version https://git-lfs'):
        return 'it is a Git LFS pointer, not the file; fetch it with git lfs'
    if 'Unsupported' in str(error) and 'GLOBAL' in str(error):
        word = str(error).partition('GLOBAL')[2].split()[0].rstrip('`.')
        return (
            f'it is a pickle that would run code ({word}); it is refused: '
            'get the weights as safetensors, or from another source'
        )
    if _is_safetensors(path) or head.startswith(b'PK'):
        return f'it is truncated or damaged; {again}'
    return f'it is truncated or no file of weights; {again}'


class _Mapped:
    """Tensors of a mapped file, whose pages are let go of as one reads."""

    _held: 'weakref.WeakSet[_Mapped]' = weakref.WeakSet()
    _bytes = 0  # read from all files together since they were let go of

    def __init__(self, load: Callable[[], Callable[[str], Tensor]]) -> None:
        self._load = load
        self._get: Callable[[str], Tensor] | None = None

    def read(self, name: str) -> Tensor:
        if _Mapped._bytes > _LET_GO_BYTES:
            for mapped in _Mapped._held:
                mapped._get = None
            _Mapped._bytes = 0
        if self._get is None:
            self._get = self._load()
            _Mapped._held.add(self)
        tensor = self._get(name)
        _Mapped._bytes += tensor.nbytes
        return tensor

    def lazy(self, name: str, shape, dtype: torch.dtype) -> LazyTensor:
        return LazyTensor(tuple(shape), dtype, lambda: self.read(name))


def _open_safetensors(path: Path) -> dict[str, LazyTensor]:
    def load() -> Any:
        try:
            return safe_open(path, 'pt')
        except SafetensorError as error:
            raise _unreadable(path, error) from error

    mapped = _Mapped(lambda: load().get_tensor)
    tensors = {}
    with load() as file:
        for name in file.keys():
            part = file.get_slice(name)
            dtype = SAFETENSORS_TYPES.get(part.get_dtype())
            if dtype is None:
                raise ValueError(
                    f'{name} in {path} is of type {part.get_dtype()}; '
                    f'expected one of {", ".join(SAFETENSORS_TYPES)}.'
                )
            tensors[name] = mapped.lazy(name, part.get_shape(), dtype)
    return tensors


def _open_pickle(path: Path) -> dict[str, LazyTensor]:
    checked: list[bool] = []

    def load() -> dict[str, Tensor]:
        try:
            # files of torch below 1.6 are no zip and cannot be mapped
            content = torch.load(
                path,
                map_location='cpu',
                weights_only=True,
                mmap=zipfile.is_zipfile(path),
            )
        except (OSError, MemoryError):
            raise
        except Exception as error:  # a damaged pickle may raise any
            raise _unreadable(path, error) from error
        if not isinstance(content, Mapping):
            raise ValueError(
                f'{path} holds a {type(content).__name__}; '
                'expected a dict of named tensors.'
            )
        if not checked:
            check_weights(content, str(path))
            checked.append(True)
        for key in _WRAPPERS:
            if isinstance(content.get(key), Mapping):
                content = content[key]
        return {
            name: tensor
            for name, tensor in content.items()
            if isinstance(tensor, Tensor)
        }

    tensors = load()
    mapped = _Mapped(lambda: load().__getitem__)
    if not zipfile.is_zipfile(path):  # it is in memory: keep it
        mapped = _Mapped(lambda: tensors.__getitem__)
    return {
        name: mapped.lazy(name, tensor.shape, tensor.dtype)
        for name, tensor in tensors.items()
    }
