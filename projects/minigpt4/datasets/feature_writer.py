# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Write a feature cache; see :mod:`minigpt4.datasets.feature_cache`."""

import json
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from ..utils.atomic import make_folder, write_atomically
from ..utils.locks import lock_file
from ..utils.regular_files import open_regular
from .feature_cache import (
    CHECKSUM_BYTES,
    DIGEST_BYTES,
    DTYPES,
    METADATA_FILE,
    FeatureCache,
)

# the data workers of a killed writer end about 5 seconds after it
LOCK_SECONDS = 10.0


class FeatureWriter:
    """Appends to a cache.

    Args:
        folder: The cache; it is created.
        provenance: What makes the features: any JSON object, which must be
            equal when the cache is used.
        shape: ``(tokens, width)`` of the features of an image.
        dtype: ``'float16'`` or ``'float32'``.
        rank: Number of this writer.
        vision_fingerprint: That of the vision parts, for the checkpoints that
            are trained from the cache; it is written into a new cache and not
            compared.

    Raises:
        ValueError: The folder contains a cache of another provenance or
            type, or another process writes the files of this rank.
        OSError: A file cannot be written, e.g. on a full disk.
    """

    def __init__(
        self,
        folder: 'str | Path',
        provenance: dict,
        shape: tuple[int, int],
        dtype: str = 'float16',
        rank: int = 0,
        vision_fingerprint: dict | None = None,
    ) -> None:
        folder = Path(folder)
        make_folder(folder)
        self._files: list[BinaryIO] = []
        stem = folder / f'{rank:04d}'
        self._digests = self._open(stem.with_suffix('.digests'))
        try:
            self._lock(stem)
            metadata = dict(
                provenance=provenance,
                shape=list(shape),
                dtype=dtype,
                vision_fingerprint=vision_fingerprint,
            )
            self._check_metadata(folder, metadata)
            self.dtype = DTYPES[dtype]
            self._record_bytes = (
                int(np.prod(shape)) * np.dtype(self.dtype).itemsize
            )
            self._features = self._open(stem.with_suffix('.features'))
            self._checksums = self._open(stem.with_suffix('.checksums'))
            self._skipped = self._open(stem.with_suffix('.skipped'))
            self._remove_incomplete_records()
        except BaseException:
            self.close()
            raise

    def _open(self, path: Path) -> BinaryIO:
        if not path.exists():
            path.touch()
        open_regular(path).close()  # refuses a FIFO, which would block
        # unbuffered, so that a write error is raised immediately
        file = open(path, 'r+b', buffering=0)
        self._files.append(file)
        return file

    def _lock(self, stem: Path) -> None:
        """Refuse a second writer."""
        if not lock_file(self._digests, LOCK_SECONDS):
            raise ValueError(
                f'another process already writes to {stem.parent} (files '
                f'{stem.name}.*); wait for it, or give another folder.'
            )

    def _check_metadata(self, folder: Path, metadata: dict) -> None:
        """Compare with ``cache.json``, or write it for a new cache."""
        path = folder / METADATA_FILE
        if not path.exists():
            write_atomically(path, json.dumps(metadata).encode())
            return
        cache = FeatureCache(folder)
        cache.check(metadata['provenance'])
        if cache.dtype != DTYPES[metadata['dtype']]:
            raise ValueError(
                f'the features in {folder} are {cache.dtype.__name__}, '
                f'not {metadata["dtype"]}; continue with their type, or make '
                'others in another folder.'
            )

    def _remove_incomplete_records(self) -> None:
        """Remove the record that a killed writer left incomplete."""
        sizes = (
            (self._digests, DIGEST_BYTES),
            (self._features, self._record_bytes),
            (self._checksums, CHECKSUM_BYTES),
        )
        complete = min(_size(file) // size for file, size in sizes[:2])
        with_checksum = min(complete, _size(self._checksums) // CHECKSUM_BYTES)
        self._checksums.truncate(with_checksum * CHECKSUM_BYTES)
        self._checksums.seek(0, 2)
        # add the checksums that a cache of an early version does not have
        for record in range(with_checksum, complete):
            data = os.pread(
                self._features.fileno(),
                self._record_bytes,
                record * self._record_bytes,
            )
            _append(self._checksums, _checksum(data))
        for file, size in sizes:
            file.truncate(complete * size)
            file.seek(0, 2)
        self._skipped.truncate(
            _size(self._skipped) // DIGEST_BYTES * DIGEST_BYTES
        )
        self._skipped.seek(0, 2)

    def add(self, digests: Sequence[bytes], features: Tensor) -> None:
        """Append the features ``(N, tokens, width)`` of some images.

        Raises:
            OSError: They cannot be written; earlier records are complete.
        """
        array = features.to('cpu', torch.float32).numpy().astype(self.dtype)
        _append(self._features, array.tobytes())
        _append(
            self._checksums,
            b''.join(_checksum(record.tobytes()) for record in array),
        )
        _append(self._digests, b''.join(digests))

    def skip(self, digest: bytes) -> None:
        """Append the digest of an image that cannot be read."""
        _append(self._skipped, digest)

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            file.close()


def _size(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size


def _checksum(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(CHECKSUM_BYTES, 'little')


def _append(file: BinaryIO, data: bytes) -> None:
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[file.write(rest) :]
    except OSError as error:
        raise OSError(
            error.errno,
            f'{file.name} could not be written ({error.strerror or error}); '
            'earlier records are complete: free some space and run the same '
            'command again',
        ) from error
