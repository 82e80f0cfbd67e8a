# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Writing files of named tensors, one tensor in memory at a time."""

import contextlib
import errno
import json
import struct
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track

from ..utils.atomic import replacing
from .read import SAFETENSORS_TYPES, LazyTensor

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_TYPE_NAMES = {dtype: name for name, dtype in SAFETENSORS_TYPES.items()}


def write_safetensors(
    path: 'str | Path',
    tensors: Mapping[str, LazyTensor],
    metadata: dict[str, str] | None = None,
    progress: str = '',
) -> None:
    """Write a safetensors file with one tensor in memory at a time.

    Args:
        path: The file; it is written whole or not at all.
        tensors: What to write.
        metadata: Strings for the header.
        progress: What a progress bar shall say; none is shown without.
    """
    with _naming(path, tensors), replacing(path) as part:
        _stream(part, tensors, metadata, progress)


@contextlib.contextmanager
def _naming(
    path: 'str | Path', tensors: Mapping[str, LazyTensor]
) -> Iterator[None]:
    """Let a full disk's error name the file and what it needs."""
    needed = sum(tensor.nbytes for tensor in tensors.values())
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise OSError(
            error.errno,
            f'{path} could not be written ({error.strerror}): it needs '
            f'{needed:,} bytes; free some space, or name another folder',
        ) from error


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
    with (
        _naming(path, tensors),
        replacing(path) as part,
        tempfile.TemporaryDirectory() as folder,
    ):
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
