# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Files of named tensors, read one tensor at a time."""

import errno
import weakref
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..utils.file_types import read_head
from ..utils.regular_files import open_regular
from .checksum import check_weights
from .file_errors import pickled_code, safetensors_error, weights_file_error
from .llm_folder import choose_weights, read_index
from .state_dicts import as_tensor, unwrap

SHIPPED = Path(__file__).parents[1] / 'nano' / 'weights'
_CHUNK = 2**20
# names whose values must be tensors; others may be anything, e.g. an epoch
_TENSOR_NAMES = ('.weight', '.bias', 'llm_fingerprint')
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

    def to(
        self, dtype: torch.dtype | None, name: str = 'a tensor'
    ) -> 'LazyTensor':
        """The same in another type, if it is floating-point; None keeps it.

        Args:
            dtype: The type.
            name: What it is called, for the error.

        Reading it raises ValueError where a value is beyond the type's range.
        """
        if dtype is None or dtype == self.dtype:
            return self
        if not self.dtype.is_floating_point:
            return self
        limit = torch.finfo(dtype).max
        narrower = limit < torch.finfo(self.dtype).max

        def read() -> Tensor:
            tensor = self.read()
            found = tensor.to(dtype)
            if narrower and found.isinf().any() and not tensor.isinf().any():
                short = str(dtype).removeprefix('torch.')
                raise ValueError(
                    f'{name} holds values beyond {limit:,.0f}, the largest of '
                    f'{short}; use bfloat16 or float32.'
                )
            return found

        return LazyTensor(self.shape, dtype, read)

    @property
    def nbytes(self) -> int:
        """Its bytes."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


def open_tensors(
    source: 'str | Path', checksums: bool = True
) -> dict[str, LazyTensor]:
    """The tensors of a file, a folder or a URL, by their names there.

    Pickles are read with ``weights_only``, so that no code of theirs runs; a
    wrapping key (:data:`~.state_dicts.WRAPPERS`) is opened. What a file
    allows is checked: the size by the header of safetensors, the CRC-32 of
    each record of a pickle.

    Args:
        source: A ``.safetensors`` file, a pickle of PyTorch, a folder with
            one or more shards of either, a URL, or ``'nano/...'`` for what
            the package ships.
        checksums: Whether to read pickles through once for their CRC-32.

    Raises:
        FileNotFoundError: There is no such file, or a shard of it is missing.
        ConnectionError: The URL cannot be reached.
        ValueError: It holds no weights: truncated, a web page, code, ...
    """
    name = str(source)
    if name.startswith(('http://', 'https://')):
        from .download import fetch

        path = fetch(name)
    elif name.startswith('nano/') and not Path(name).exists():
        path = SHIPPED / name.removeprefix('nano/')
    else:
        path = Path(source).expanduser()
    if path.is_dir():
        return _open_folder(path, checksums)
    if not path.is_file():
        raise FileNotFoundError(
            f'{name} is no file; give the path of the downloaded weights.'
        )
    return _open_file(path, checksums)


def _open_folder(folder: Path, checksums: bool) -> dict[str, LazyTensor]:
    """The shards of a Hugging Face folder as one dict."""
    places = None
    chosen = choose_weights(folder)
    if chosen is not None:
        shards = [chosen]
        if chosen.endswith('.index.json'):
            places = read_index(folder / chosen)
            shards = sorted(set(places.values()))
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
    lost = [name for name in shards if not (folder / name).is_file()]
    if lost:
        raise FileNotFoundError(
            f'the folder {folder} lacks {len(lost)} of its {len(shards)} '
            f'shards, e.g. {lost[0]}; download the rest.'
        )
    tensors: dict[str, LazyTensor] = {}
    for shard in shards:
        tensors |= _open_file(folder / shard, checksums)
    lost = sorted(set(places or ()) - set(tensors))
    if lost:
        raise ValueError(
            f'the shards of {folder} lack {len(lost)} tensors that its index '
            f'names, e.g. {lost[0]}; download them again.'
        )
    return tensors


def _open_file(path: Path, checksums: bool) -> dict[str, LazyTensor]:
    if is_safetensors(path):
        return _open_safetensors(path)
    return _open_pickle(path, checksums)


def is_safetensors(path: Path) -> bool:
    """Whether a file is of safetensors, by its content, else by its name."""
    head = read_head(path)
    if head[8:9] == b'{':  # behind the header's length
        return True
    pickled = head[:2] in (b'PK', b'\x80\x02')
    return path.suffix == '.safetensors' and not pickled


def _unreadable(path: Path, error: Exception) -> ValueError:
    """The error to raise for a file that is no weights."""
    return ValueError(
        f'{path} ({path.stat().st_size:,} bytes) cannot be read as weights: '
        f'it {_what_is_wrong(path, error)}.'
    )


def _what_is_wrong(path: Path, error: Exception) -> str:
    """Why a file is no weights, and what to do."""
    head = read_head(path)
    found = weights_file_error(head)
    if found is None and is_safetensors(path):
        found = safetensors_error(path)
        if found is not None and not found[0].startswith('is '):
            found = 'is truncated or damaged', f'{found[1]}: it {found[0]}'
    if found is not None:
        return '; '.join(found)
    code = pickled_code(str(error))
    if code is not None:
        return (
            f'is a pickle that would run code ({code}); it is refused: '
            'get the weights as safetensors, or from another source'
        )
    if 'TorchScript' in str(error):
        return (
            'is a TorchScript archive, which is a program; save the '
            'state_dict() of the model'
        )
    if head.startswith(b'PK') and not _has_pickle(path):
        return 'is a zip archive without weights of PyTorch; unpack it'
    if is_safetensors(path) or head.startswith(b'PK'):
        return 'is truncated or damaged; download it again'
    return 'is truncated or no file of weights; download it again'


def _has_pickle(path: Path) -> bool:
    """Whether a zip archive is a file of torch, or cannot be looked into."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(n.endswith('/data.pkl') for n in archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError):
        return True


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


def _open_pickle(path: Path, checksums: bool) -> dict[str, LazyTensor]:
    in_zip = zipfile.is_zipfile(path)

    def load(checksums: bool = False) -> dict[str, Tensor]:
        # files of torch below 1.6 are no zip and cannot be mapped
        content = load_pickle(path, 'cpu', mmap=in_zip, checksums=checksums)
        return {
            name: as_tensor(name, value, path)
            for name, value in unwrap(content, path).items()
            if isinstance(value, (Tensor, np.ndarray))
            or name.endswith(_TENSOR_NAMES)
        }

    tensors = load(checksums)
    mapped = _Mapped(lambda: load().__getitem__)
    if not in_zip:  # it is in memory: keep it
        mapped = _Mapped(lambda: tensors.__getitem__)
    return {
        name: mapped.lazy(name, tensor.shape, tensor.dtype)
        for name, tensor in tensors.items()
    }


def load_pickle(
    path: Path,
    map_location: Any = 'cpu',
    mmap: bool = False,
    checksums: bool = True,
) -> Mapping[str, Any]:
    """What a pickle of PyTorch holds; no code of it is run.

    Args:
        path: The file.
        map_location: As for ``torch.load``.
        mmap: Whether to map it; it must be a zip archive.
        checksums: Whether to compare the CRC-32 of its records, which
            ``torch.load`` does not do (2 GB take about a second), and the
            checksum of a checkpoint's weights.

    Raises:
        ValueError: It is no regular file or no pickle of a dict, is damaged,
            or would run code.
        OSError: It is missing or cannot be read.
    """
    with open_regular(path) as file:
        in_zip = zipfile.is_zipfile(file)
    if in_zip and checksums:
        _check_records(path)
    try:
        content = torch.load(
            path, map_location=map_location, weights_only=True, mmap=mmap
        )
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # a damaged pickle may raise any
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise  # of the disk, not of a length within the file
        raise _unreadable(path, error) from error
    if not isinstance(content, Mapping):
        raise ValueError(
            f'{path} holds a {type(content).__name__}; '
            'expected a dict of named tensors.'
        )
    if checksums:
        check_weights(content, str(path))
    return content


def _check_records(path: Path) -> None:
    """Refuse a zip archive of which a record differs from its CRC-32."""
    try:
        with zipfile.ZipFile(path) as archive:
            for record in archive.infolist():
                # 0: written with torch's set_crc32_options(False)
                if record.CRC == 0:
                    continue
                with archive.open(record) as file:
                    while file.read(_CHUNK):
                        pass  # at its end the CRC-32 is compared
    except MemoryError:
        raise
    except Exception as error:  # a damaged archive may raise any
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        if 'CRC' in str(error):
            raise ValueError(
                f'{path} ({path.stat().st_size:,} bytes) is damaged '
                f'({error}): it has other bytes than were written; download '
                'or copy it again.'
            ) from error
        raise _unreadable(path, error) from error
