# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Files of named tensors, read and written one tensor at a time."""

import json
import pickle
import struct
import tempfile
import weakref
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..atomic import replacing

SHIPPED = Path(__file__).parents[1] / 'nano' / 'weights'
# what others wrap a state dict in: MiniGPT-4 and LAVIS, mmengine, DeepSpeed
_WRAPPERS = ('model', 'state_dict', 'module')
# a mapped file counts as memory while its pages are held; it is let go of
# after this many bytes
_LET_GO_BYTES = 2**29
# names of types in a safetensors header
_TYPES = {
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
}
_TYPE_NAMES = {dtype: name for name, dtype in _TYPES.items()}


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
            places = json.loads((folder / index).read_text())['weight_map']
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


def _open_file(path: Path) -> dict[str, LazyTensor]:
    try:
        if _is_safetensors(path):
            return _open_safetensors(path)
        return _open_pickle(path)
    except (
        SafetensorError,
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        KeyError,
        AttributeError,
        UnicodeDecodeError,
    ) as error:
        raise ValueError(
            f'{path} ({path.stat().st_size:,} bytes) cannot be read as '
            f'weights: {_what_is_wrong(path, error)}.'
        ) from error


def _is_safetensors(path: Path) -> bool:
    return path.suffix == '.safetensors'


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
    mapped = _Mapped(lambda: safe_open(path, 'pt').get_tensor)
    with safe_open(path, 'pt') as file:
        slices = {name: file.get_slice(name) for name in file.keys()}
        return {
            name: mapped.lazy(name, s.get_shape(), _TYPES[s.get_dtype()])
            for name, s in slices.items()
        }


def _open_pickle(path: Path) -> dict[str, LazyTensor]:
    def load() -> dict[str, Tensor]:
        # files of torch below 1.6 are no zip and cannot be mapped
        content = torch.load(
            path,
            map_location='cpu',
            weights_only=True,
            mmap=zipfile.is_zipfile(path),
        )
        if not isinstance(content, Mapping):
            raise ValueError(
                f'{path} holds a {type(content).__name__}; '
                'expected a dict of named tensors.'
            )
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


def write_safetensors(
    path: 'str | Path',
    tensors: Mapping[str, LazyTensor],
    metadata: dict[str, str] | None = None,
    progress: str = '',
) -> None:
    """Write a safetensors file with one tensor in memory at a time.

    Args:
        path: The file; it stands there whole or not at all.
        tensors: What to write.
        metadata: Strings for the header.
        progress: What a progress bar shall say; none is shown without.
    """
    with replacing(path) as part:
        _stream(part, tensors, metadata, progress)


def _stream(
    path: Path,
    tensors: Mapping[str, LazyTensor],
    metadata: dict[str, str] | None,
    progress: str,
) -> None:
    # wide types first keeps every tensor aligned to its type
    names = sorted(tensors, key=lambda n: (-tensors[n].dtype.itemsize, n))
    header: dict[str, Any] = {}
    if metadata:
        header['__metadata__'] = metadata
    end = 0
    for name in names:
        tensor = tensors[name]
        begin, end = end, end + tensor.nbytes
        header[name] = dict(
            dtype=_TYPE_NAMES[tensor.dtype],
            shape=list(tensor.shape),
            data_offsets=[begin, end],
        )
    text = json.dumps(header).encode()
    text += b' ' * (-len(text) % 8)
    with open(path, 'wb') as file:
        file.write(len(text).to_bytes(8, 'little') + text)
        for name in _shown(names, progress):
            file.write(_bytes_of(tensors[name]))


def _shown(names: list[str], progress: str) -> Iterator[str]:
    console = Console(stderr=True)
    if progress and console.is_terminal:
        yield from track(names, progress, console=console)
    else:
        yield from names


def write_pickle(
    path: 'str | Path',
    tensors: Mapping[str, LazyTensor],
    key: str | None = None,
    progress: str = '',
) -> None:
    """Write what ``torch.save`` would, with one tensor in memory at a time.

    torch writes the skeleton, a file with holes where the tensors' bytes go;
    its records are copied and the bytes filled in.

    Args:
        path: The file; it stands there whole or not at all.
        tensors: What to write.
        key: What the dict of tensors is wrapped in, e.g. ``'state_dict'``.
        progress: As for :func:`write_safetensors`.
    """
    empty = {
        n: torch.empty(t.shape, dtype=t.dtype) for n, t in tensors.items()
    }
    lazies = iter(_shown(list(tensors), progress))
    with replacing(path) as part, tempfile.TemporaryDirectory() as folder:
        skeleton = Path(folder) / Path(path).stem
        with torch.serialization.skip_data():
            torch.save({key: empty} if key else empty, skeleton)
        with (
            zipfile.ZipFile(skeleton) as source,
            zipfile.ZipFile(part, 'w') as target,
        ):
            for record in source.infolist():
                if '/data/' in record.filename:  # in the order of the dict
                    data = _bytes_of(tensors[next(lazies)])
                else:
                    data = memoryview(source.read(record))
                _add_record(target, record.filename, data)


def _bytes_of(lazy: LazyTensor) -> memoryview:
    tensor = lazy.read()
    if tuple(tensor.shape) != lazy.shape:
        raise ValueError(
            f'a tensor was announced as {lazy.shape} but is '
            f'{tuple(tensor.shape)}.'
        )
    data = tensor.to(lazy.dtype).contiguous()
    return data.reshape(-1).view(torch.uint8).numpy().data


def _add_record(target: zipfile.ZipFile, name: str, data: memoryview) -> None:
    """Store a record whose bytes begin at a multiple of 64, as torch's do."""
    record = zipfile.ZipInfo(name)
    record.file_size = len(data)
    assert target.fp is not None
    begin = target.fp.tell() + 30 + len(name.encode()) + 4
    padding = -begin % 64
    record.extra = struct.pack('<HH', 0x4246, padding) + b'Z' * padding
    with target.open(record, 'w') as file:
        file.write(data)


def write_sharded(
    folder: 'str | Path',
    tensors: Mapping[str, LazyTensor],
    max_shard_bytes: int = 5 * 10**9,
    progress: str = '',
) -> None:
    """Write the weights of a Hugging Face folder, in shards where large.

    Args:
        folder: The folder; its other files are left alone.
        tensors: What to write.
        max_shard_bytes: Bytes above which a further shard is begun.
        progress: As for :func:`write_safetensors`.
    """
    folder = Path(folder)
    shards: list[dict[str, LazyTensor]] = [{}]
    filled = 0
    for name, tensor in tensors.items():
        if shards[-1] and filled + tensor.nbytes > max_shard_bytes:
            shards.append({})
            filled = 0
        shards[-1][name] = tensor
        filled += tensor.nbytes
    files = ['model.safetensors']
    if len(shards) > 1:
        files = [
            f'model-{i:05d}-of-{len(shards):05d}.safetensors'
            for i in range(1, len(shards) + 1)
        ]
    for file, shard in zip(files, shards, strict=True):
        write_safetensors(
            folder / file, shard, dict(format='pt'), progress and file
        )
    if len(shards) > 1:
        index = dict(
            metadata=dict(total_size=sum(t.nbytes for t in tensors.values())),
            weight_map={
                name: file
                for file, shard in zip(files, shards, strict=True)
                for name in shard
            },
        )
        (folder / 'model.safetensors.index.json').write_text(
            json.dumps(index, indent=1, sort_keys=True)
        )
