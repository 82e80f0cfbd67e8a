# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Write files of named tensors, one tensor in memory at a time."""

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

from ..utils.atomic import replacing
from ..utils.errors import one_line
from ..utils.progress import track_progress
from .read import SAFETENSORS_TYPES, LazyTensor

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_TYPE_NAMES = {dtype: name for name, dtype in SAFETENSORS_TYPES.items()}


def write_safetensors(
    path: 'str | Path',
    tensors: Mapping[str, LazyTensor],
    metadata: dict[str, str] | None = None,
    progress: str = '',
) -> None:
    """Write a safetensors file with one tensor in memory at a time.

    Args:
        path: The file; it is written completely or not at all.
        tensors: The tensors by name.
        metadata: Strings for the header.
        progress: Label of a progress bar; without one none is shown.

    Raises:
        OSError: It cannot be written; for a full disk the error names the
            bytes that are needed.
    """
    with _explain_full_disk(path, tensors), replacing(path) as temporary:
        _write_tensors(temporary, tensors, metadata, progress)


@contextlib.contextmanager
def _explain_full_disk(
    path: 'str | Path', tensors: Mapping[str, LazyTensor]
) -> Iterator[None]:
    """Add the file and the bytes needed to the error of a full disk."""
    needed = sum(tensor.nbytes for tensor in tensors.values())
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_FULL:
            raise
        raise OSError(
            error.errno,
            f'{path} could not be written ({error.strerror}): it needs '
            f'{needed:,} bytes; free some space, or name another folder',
        ) from error


def _write_tensors(
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
        for name in track_progress(names, progress, visible=bool(progress)):
            file.write(_read_bytes(tensors[name]))


def write_pickle(
    path: 'str | Path',
    tensors: Mapping[str, LazyTensor],
    key: str | None = None,
    progress: str = '',
) -> None:
    """Write the file of ``torch.save`` with one tensor in memory at a time.

    torch writes a file without the tensors' bytes (``skip_data``); its
    records are copied and the bytes filled in.

    Args:
        path: The file; it is written completely or not at all.
        tensors: The tensors by name.
        key: Key under which the dict of tensors is saved, e.g.
            ``'state_dict'``; None saves the dict itself.
        progress: As for :func:`write_safetensors`.

    Raises:
        OSError: As for :func:`write_safetensors`.
    """
    empty = {
        n: torch.empty(t.shape, dtype=t.dtype) for n, t in tensors.items()
    }
    names = iter(
        track_progress(list(tensors), progress, visible=bool(progress))
    )
    with (
        _explain_full_disk(path, tensors),
        replacing(path) as temporary,
        tempfile.TemporaryDirectory() as scratch,
    ):
        skeleton = Path(scratch) / Path(path).stem
        try:
            with torch.serialization.skip_data():
                torch.save({key: empty} if key else empty, skeleton)
        except RuntimeError as error:  # of torch's writer, e.g. no space left
            raise OSError(
                errno.EIO,
                f'{path} could not be written: its temporary file {skeleton} '
                f'failed ({one_line(error)})',
            ) from error
        with (
            zipfile.ZipFile(skeleton) as source,
            zipfile.ZipFile(temporary, 'w') as target,
        ):
            for record in source.infolist():
                if '/data/' in record.filename:  # in the order of the dict
                    data = _read_bytes(tensors[next(names)])
                else:
                    data = memoryview(source.read(record))
                _add_record(target, record.filename, data)


def _read_bytes(lazy: LazyTensor) -> memoryview:
    """Read a tensor and return its bytes, in row-major order.

    Raises:
        ValueError: Its shape is not the announced one.
    """
    tensor = lazy.read()
    if tuple(tensor.shape) != lazy.shape:
        raise ValueError(
            f'a tensor was announced as {lazy.shape} but is '
            f'{tuple(tensor.shape)}.'
        )
    data = tensor.to(lazy.dtype).contiguous()
    return data.reshape(-1).view(torch.uint8).numpy().data


def _add_record(target: zipfile.ZipFile, name: str, data: memoryview) -> None:
    """Add an uncompressed record, aligned to 64 bytes as torch aligns it."""
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
    """Write the weights of a Hugging Face folder, in shards if they are large.

    Args:
        folder: The folder; its other files are not changed.
        tensors: The tensors by name.
        max_shard_bytes: Largest size of a shard of several tensors.
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
