# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The features of the frozen half for each image, kept on disk.

A cache is a folder: ``cache.json`` records what made the features, and each
writer (rank) appends to files of its own: the queries of its images, a
checksum of each, the digests of the images' bytes, and the digests of images
that could not be read. A record counts once its digest is written, so a
writer may be killed at any time and continue later.
"""

import hashlib
import json
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from ..images.read import SampleError, read_file
from ..registry import TRANSFORMS
from ..utils.atomic import make_folder, write_atomically
from ..utils.errors import printable
from ..utils.fault_log import FEATURES
from ..utils.locks import lock_file
from ..utils.regular_files import open_regular, read_regular, read_text

DIGEST_BYTES = 16
CHECKSUM_BYTES = 4
# The data workers of a killed writer end some 5 seconds after it.
LOCK_SECONDS = 10.0
DTYPES = {'float16': np.float16, 'float32': np.float32}
_META = 'cache.json'


def read_bytes(source: 'str | Path | bytes') -> bytes:
    """The bytes of an image.

    Raises:
        SampleError: The file cannot be read, see
            :func:`~minigpt4.images.read.read_file`.
    """
    return source if isinstance(source, bytes) else read_file(source)


def digest_of(data: bytes) -> bytes:
    """The name of an image in a cache."""
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest()


class FeatureWriter:
    """Appends to a cache.

    Args:
        folder: The cache; it is made where there is none.
        maker: What makes the features: anything that goes into JSON, which
            has to be equal when the cache is used.
        shape: ``(tokens, width)`` of an image's queries.
        dtype: ``'float16'`` or ``'float32'``.
        rank: Number of this writer.

    Raises:
        ValueError: The folder holds a cache of another maker or type, or
            another process writes the files of this rank.
        OSError: A file cannot be written (e.g. a full disk).
    """

    def __init__(
        self,
        folder: 'str | Path',
        maker: dict,
        shape: tuple[int, int],
        dtype: str = 'float16',
        rank: int = 0,
    ) -> None:
        folder = Path(folder)
        make_folder(folder)
        self._files: list[BinaryIO] = []
        stem = folder / f'{rank:04d}'
        self._digests = self._open(stem.with_suffix('.digests'))
        try:
            self._lock(stem)
            self._check_meta(folder, maker, shape, dtype)
            self.dtype = DTYPES[dtype]
            self._record = int(np.prod(shape)) * np.dtype(self.dtype).itemsize
            self._features = self._open(stem.with_suffix('.features'))
            self._checksums = self._open(stem.with_suffix('.checksums'))
            self._skipped = self._open(stem.with_suffix('.skipped'))
            self._cut_to_whole_records()
        except BaseException:
            self.close()
            raise

    def _open(self, path: Path) -> BinaryIO:
        if not path.exists():
            path.touch()
        open_regular(path).close()  # refuses a FIFO, which would block
        # without a buffer: what cannot be written is known at once
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

    def _check_meta(
        self, folder: Path, maker: dict, shape: tuple[int, int], dtype: str
    ) -> None:
        """Compare with ``cache.json``, or write it where there is none."""
        if not (folder / _META).exists():
            meta = dict(maker=maker, shape=list(shape), dtype=dtype)
            write_atomically(folder / _META, json.dumps(meta).encode())
            return
        cache = FeatureCache(folder)
        cache.check(maker)
        if cache.dtype != DTYPES[dtype]:
            raise ValueError(
                f'the features in {folder} are {cache.dtype.__name__}, '
                f'not {dtype}; go on with their type, or make others in '
                'another folder.'
            )

    def _cut_to_whole_records(self) -> None:
        """Remove a record that was cut off: it is written again."""
        sizes = (
            (self._digests, DIGEST_BYTES),
            (self._features, self._record),
            (self._checksums, CHECKSUM_BYTES),
        )
        whole = min(_size(file) // size for file, size in sizes[:2])
        known = min(whole, _size(self._checksums) // CHECKSUM_BYTES)
        self._checksums.truncate(known * CHECKSUM_BYTES)
        self._checksums.seek(0, 2)
        for row in range(known, whole):  # of a cache without checksums
            data = os.pread(
                self._features.fileno(), self._record, row * self._record
            )
            _append(self._checksums, _checksum(data))
        for file, size in sizes:
            file.truncate(whole * size)
            file.seek(0, 2)
        self._skipped.truncate(
            _size(self._skipped) // DIGEST_BYTES * DIGEST_BYTES
        )
        self._skipped.seek(0, 2)

    def add(self, digests: Sequence[bytes], queries: Tensor) -> None:
        """Append the queries ``(N, tokens, width)`` of some images.

        Raises:
            OSError: They cannot be written; the records before are whole.
        """
        array = queries.to('cpu', torch.float32).numpy().astype(self.dtype)
        _append(self._features, array.tobytes())
        _append(
            self._checksums,
            b''.join(_checksum(row.tobytes()) for row in array),
        )
        _append(self._digests, b''.join(digests))

    def skip(self, digest: bytes) -> None:
        """Note an image that cannot be read."""
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
            'the records before are whole: free some space and run the same '
            'command again',
        ) from error


class FeatureCache:
    """Reads a cache; what it holds when it is opened.

    Args:
        folder: The cache.

    Raises:
        FileNotFoundError: There is no cache.
        ValueError: A file of it is damaged, missing or not a regular file.
    """

    def __init__(self, folder: 'str | Path') -> None:
        self.folder = Path(folder)
        self.maker, self.shape, self.dtype = self._read_meta()
        self._files = sorted(self.folder.glob('*.features'))
        self._handles: list[BinaryIO] | None = None  # each process its own
        self._record = int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize
        keys, places, self._checksums = [], [], []
        for number, path in enumerate(self._files):
            with open_regular(path) as file:
                rows = _size(file) // self._record
            digests = self._read(path.with_suffix('.digests'))
            found = np.frombuffer(
                digests[: len(digests) // DIGEST_BYTES * DIGEST_BYTES],
                np.uint64,
            ).reshape(-1, 2)[:rows]
            keys.append(found)
            self._checksums.append(self._read_checksums(path))
            order = np.arange(len(found), dtype=np.int64)
            places.append(np.stack((np.full_like(order, number), order), 1))
        joined = np.concatenate([np.empty((0, 2), np.uint64), *keys])
        # found by the first half of the digest, made sure of by the second
        order = np.argsort(joined[:, 0], kind='stable')
        self._keys = joined[order]
        self._places = np.concatenate([np.empty((0, 2), np.int64), *places])[
            order
        ]
        self.skipped: set[bytes] = set()
        for path in sorted(self.folder.glob('*.skipped')):
            data = read_regular(path)
            last = len(data) // DIGEST_BYTES * DIGEST_BYTES
            self.skipped.update(
                data[i : i + DIGEST_BYTES]
                for i in range(0, last, DIGEST_BYTES)
            )

    def _read_meta(self) -> tuple[dict, tuple[int, int], type]:
        path = self.folder / _META
        if not path.exists():
            raise FileNotFoundError(
                f'{self.folder} has no {_META}, so it is not a feature cache; '
                'make one with: minigpt4 cache-features CONFIG -o DIR.'
            )
        try:
            meta = json.loads(read_text(path))
            maker, shape = meta['maker'], meta['shape']
            dtype = DTYPES[meta['dtype']]
            if not isinstance(maker, dict) or len(shape) != 2:
                raise ValueError('wrong fields')
            if not all(type(n) is int and n > 0 for n in shape):
                raise ValueError('wrong shape')
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            reason = printable(f'{type(error).__name__}: {error}'[:120])
            raise ValueError(
                f'{path} is damaged or not of a feature cache ({reason}); '
                'remove the folder and make it again with: minigpt4 '
                'cache-features CONFIG -o DIR.'
            ) from error
        return maker, (shape[0], shape[1]), dtype

    def _read(self, path: Path) -> bytes:
        try:
            return read_regular(path)
        except FileNotFoundError as error:
            raise ValueError(
                f'{path} is missing, so the features next to it cannot be '
                'used; remove the folder and make it again with: minigpt4 '
                'cache-features CONFIG -o DIR.'
            ) from error

    def _read_checksums(self, path: Path) -> np.ndarray:
        """uint32 of each record; fewer where they were not written yet."""
        path = path.with_suffix('.checksums')
        data = read_regular(path) if path.exists() else b''
        last = len(data) // CHECKSUM_BYTES * CHECKSUM_BYTES
        return np.frombuffer(data[:last], '<u4')

    def __len__(self) -> int:
        return len(self._keys)

    def _find(self, digest: bytes) -> int | None:
        first, second = np.frombuffer(digest, np.uint64)
        at = int(np.searchsorted(self._keys[:, 0], first))
        while at < len(self) and self._keys[at, 0] == first:
            if self._keys[at, 1] == second:
                return at
            at += 1
        return None

    def __contains__(self, digest: bytes) -> bool:
        return self._find(digest) is not None

    def __getitem__(self, digest: bytes) -> Tensor:
        """The queries ``(tokens, width)`` of an image.

        Raises:
            KeyError: It is not there.
            SampleError: The record is damaged.
        """
        at = self._find(digest)
        if at is None:
            raise KeyError(digest.hex())
        if self._handles is None:
            self._handles = [open_regular(path) for path in self._files]
        number, row = (int(n) for n in self._places[at])
        data = os.pread(
            self._handles[number].fileno(), self._record, row * self._record
        )
        sums = self._checksums[number]
        if len(data) < self._record or (
            row < len(sums) and zlib.crc32(data) != sums[row]
        ):
            raise SampleError(
                f'record {row} of {self._files[number]} is damaged; remove '
                f'{self.folder} and make it again with: minigpt4 '
                'cache-features CONFIG -o DIR.',
                FEATURES,
            )
        flat: np.ndarray = np.frombuffer(bytearray(data), self.dtype)
        return torch.from_numpy(flat.reshape(self.shape))

    def check(self, maker: dict) -> None:
        """Refuse features that something else made.

        Raises:
            ValueError: Something else made them.
        """
        if maker == self.maker:
            return
        differing = [
            f'{key} {_short(self.maker.get(key))} instead of '
            f'{_short(maker.get(key))}'
            for key in sorted({*maker, *self.maker})
            if maker.get(key) != self.maker.get(key)
        ]
        raise ValueError(
            f'the features in {self.folder} were made otherwise than the '
            f'config says ({"; ".join(differing)}); make them again with: '
            'minigpt4 cache-features CONFIG -o DIR.'
        )

    def __getstate__(self) -> dict:
        return {**self.__dict__, '_handles': None}


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) < 60 else text[:57] + '...'


@TRANSFORMS.register_module()
class LoadFeatures:
    """Takes the queries of ``images`` from a cache, instead of their pixels.

    Args:
        folder: The cache.
    """

    def __init__(self, folder: str) -> None:
        self.cache = FeatureCache(folder)

    def __call__(self, record: dict) -> dict:
        """Replace the sources by ``(tokens, width)`` queries.

        Raises:
            SampleError: The image could not be read when the cache was made.
            SampleError: Its record in the cache is damaged.
            ValueError: It was not there when the cache was made.
        """
        images = []
        for source in record.get('images', []):
            digest = digest_of(read_bytes(source))
            name = 'an image' if isinstance(source, bytes) else source
            try:
                images.append(self.cache[digest])
            except KeyError:
                if digest in self.cache.skipped:
                    raise SampleError(
                        f'{name} of {record.get("id")} could not be read when '
                        f'{self.cache.folder} was made.'
                    ) from None
                raise ValueError(
                    f'{name} of {record.get("id")} is not in '
                    f'{self.cache.folder} ({len(self.cache):,} images); it '
                    'was added or changed later: run minigpt4 cache-features '
                    'again, which keeps what is there.'
                ) from None
        return {**record, 'images': images}
