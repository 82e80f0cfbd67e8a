# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Read the features that the frozen vision encoder made of each image.

A cache is a folder. ``cache.json`` records what made the features. Each
writer (rank) appends to its own files: the features of its images, a checksum
of each, the digests of the images' bytes, and the digests of images that
could not be read. A record is valid once its digest is written, so a writer
may be killed at any time and resumed later
(:mod:`minigpt4.datasets.feature_writer`).
"""

import hashlib
import json
import os
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from ..images.read import read_file
from ..registry import TRANSFORMS
from ..utils.errors import printable, short_json
from ..utils.regular_files import open_regular, read_regular
from ..utils.sample_errors import FEATURES, SampleError
from ..utils.text_files import read_text

DIGEST_BYTES = 16
CHECKSUM_BYTES = 4
DTYPES = {'float16': np.float16, 'float32': np.float32}
METADATA_FILE = 'cache.json'
_COMMAND = 'minigpt4 cache-features CONFIG -o DIR'


def read_source(source: 'str | Path | bytes') -> bytes:
    """Return the bytes of an image.

    Args:
        source: A file, or bytes, which are returned.

    Raises:
        SampleError: The file cannot be read, see
            :func:`~minigpt4.images.read.read_file`.
    """
    return source if isinstance(source, bytes) else read_file(source)


def image_digest(data: bytes, flipped: bool = False) -> bytes:
    """Return the digest of an image's bytes, its key in a cache.

    Args:
        data: The bytes of the image.
        flipped: Whether the features are those of the flipped image.
    """
    return hashlib.blake2b(
        data, digest_size=DIGEST_BYTES, person=b'flipped' if flipped else b''
    ).digest()


class FeatureCache:
    """Reads the features that a cache contains when it is opened.

    Args:
        folder: The cache.

    Attributes:
        provenance: What made the features, from ``cache.json``.
        shape: ``(tokens, width)`` of the features of an image.
        vision_fingerprint: That of the parts that made them; None in caches
            of version 0.2 and before.
        skipped: Digests of images that could not be read.

    Raises:
        FileNotFoundError: There is no cache.
        ValueError: A file of the cache is damaged, missing or not a regular
            file.
    """

    def __init__(self, folder: 'str | Path') -> None:
        self.folder = Path(folder)
        self.vision_fingerprint: dict | None = None
        self.provenance, self.shape, self.dtype = self._read_metadata()
        self._files = sorted(self.folder.glob('*.features'))
        # opened at the first access, in each process
        self._handles: list[BinaryIO] | None = None
        self._record_bytes = (
            int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize
        )
        all_digests = [np.empty((0, 2), np.uint64)]
        all_locations = [np.empty((0, 2), np.int64)]
        self._checksums = []
        for number, path in enumerate(self._files):
            with open_regular(path) as file:
                num_records = (
                    os.fstat(file.fileno()).st_size // self._record_bytes
                )
            digests = _complete(
                self._read(path.with_suffix('.digests')), DIGEST_BYTES
            )
            pairs = np.frombuffer(digests, np.uint64).reshape(-1, 2)
            pairs = pairs[:num_records]
            all_digests.append(pairs)
            self._checksums.append(self._read_checksums(path))
            records = np.arange(len(pairs), dtype=np.int64)
            all_locations.append(
                np.stack((np.full_like(records, number), records), 1)
            )
        digests_of_all = np.concatenate(all_digests)
        # searched by the first half of the digest, verified by the second
        order = np.argsort(digests_of_all[:, 0], kind='stable')
        self._keys = digests_of_all[order]
        # number of the file, number of the record in it
        self._locations = np.concatenate(all_locations)[order]
        self.skipped: set[bytes] = set()
        for path in sorted(self.folder.glob('*.skipped')):
            data = _complete(read_regular(path), DIGEST_BYTES)
            self.skipped.update(
                data[i : i + DIGEST_BYTES]
                for i in range(0, len(data), DIGEST_BYTES)
            )

    def _read_metadata(self) -> tuple[dict, tuple[int, int], type]:
        path = self.folder / METADATA_FILE
        if not path.exists():
            raise FileNotFoundError(
                f'{self.folder} has no {METADATA_FILE}, so it is not a '
                f'feature cache; make one with: {_COMMAND}.'
            )
        try:
            metadata = json.loads(read_text(path))
            # version 0.1 wrote "maker"
            key = 'maker' if 'maker' in metadata else 'provenance'
            provenance, shape = metadata[key], metadata['shape']
            dtype = DTYPES[metadata['dtype']]
            fingerprint = metadata.get('vision_fingerprint')
            if not isinstance(fingerprint, dict | None):
                raise ValueError('invalid vision_fingerprint')
            self.vision_fingerprint = fingerprint
            if not isinstance(provenance, dict) or len(shape) != 2:
                raise ValueError('invalid fields')
            if not all(type(n) is int and n > 0 for n in shape):
                raise ValueError('invalid shape')
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            reason = printable(f'{type(error).__name__}: {error}'[:120])
            raise ValueError(
                f'{path} is damaged or does not belong to a feature cache '
                f'({reason}); remove the folder and make it again with: '
                f'{_COMMAND}.'
            ) from error
        return provenance, (shape[0], shape[1]), dtype

    def _read(self, path: Path) -> bytes:
        try:
            return read_regular(path)
        except FileNotFoundError as error:
            raise ValueError(
                f'{path} is missing, so the features next to it cannot be '
                'used; remove the folder and make it again with: '
                f'{_COMMAND}.'
            ) from error

    def _read_checksums(self, path: Path) -> np.ndarray:
        """Return uint32 checksums; fewer than records if some are missing."""
        path = path.with_suffix('.checksums')
        data = read_regular(path) if path.exists() else b''
        return np.frombuffer(_complete(data, CHECKSUM_BYTES), '<u4')

    def __len__(self) -> int:
        return len(self._keys)

    def _find(self, digest: bytes) -> int | None:
        first, second = np.frombuffer(digest, np.uint64)
        i = int(np.searchsorted(self._keys[:, 0], first))
        while i < len(self) and self._keys[i, 0] == first:
            if self._keys[i, 1] == second:
                return i
            i += 1
        return None

    def __contains__(self, digest: bytes) -> bool:
        return self._find(digest) is not None

    def __getitem__(self, digest: bytes) -> Tensor:
        """Return the features ``(tokens, width)`` of an image.

        Raises:
            KeyError: The cache does not contain the image.
            SampleError: The record is damaged.
        """
        i = self._find(digest)
        if i is None:
            raise KeyError(digest.hex())
        if self._handles is None:
            self._handles = [open_regular(path) for path in self._files]
        file, record = (int(n) for n in self._locations[i])
        data = os.pread(
            self._handles[file].fileno(),
            self._record_bytes,
            record * self._record_bytes,
        )
        checksums = self._checksums[file]
        if len(data) < self._record_bytes or (
            record < len(checksums) and zlib.crc32(data) != checksums[record]
        ):
            raise SampleError(
                f'record {record} of {self._files[file]} is damaged; remove '
                f'{self.folder} and make it again with: {_COMMAND}.',
                FEATURES,
            )
        flat: np.ndarray = np.frombuffer(bytearray(data), self.dtype)
        return torch.from_numpy(flat.reshape(self.shape))

    def check(self, provenance: dict) -> None:
        """Refuse features that another config made.

        Args:
            provenance: What makes the features of the present config.

        Raises:
            ValueError: It differs from that of the cache.
        """
        if provenance == self.provenance:
            return
        differences = [
            f'{key} {short_json(self.provenance.get(key))} instead of '
            f'{short_json(provenance.get(key))}'
            for key in sorted({*provenance, *self.provenance})
            if provenance.get(key) != self.provenance.get(key)
        ]
        raise ValueError(
            f'the features in {self.folder} do not belong to this config '
            f'({"; ".join(differences)}); make them again with: {_COMMAND}.'
        )

    def __getstate__(self) -> dict:
        return {**self.__dict__, '_handles': None}


def _complete(data: bytes, size: int) -> bytes:
    """Remove an incomplete entry from the end."""
    return data[: len(data) // size * size]


@TRANSFORMS.register_module()
class LoadFeatures:
    """Loads the features of ``images`` from a cache, instead of the pixels.

    Args:
        folder: The cache.
    """

    def __init__(self, folder: str) -> None:
        self.cache = FeatureCache(folder)

    def __call__(self, record: dict) -> dict:
        """Replace the images by features ``(tokens, width)``.

        They are those of the flipped images where ``DrawFlip`` has set
        ``flipped``.

        Raises:
            SampleError: The image could not be read when the cache was made,
                or its record in the cache is damaged.
            ValueError: The cache does not contain the image.
        """
        images = []
        flipped = record.get('flipped', False)
        for source in record.get('images', []):
            digest = image_digest(read_source(source), flipped)
            name = source
            if isinstance(source, bytes):
                name = f'an image of {record.get("id")}'
            if flipped:
                name = f'{name}, flipped,'
            try:
                images.append(self.cache[digest])
            except KeyError:
                if digest in self.cache.skipped:
                    raise SampleError(
                        f'{name} could not be read when {self.cache.folder} '
                        'was made.'
                    ) from None
                raise ValueError(
                    f'{name} is not in {self.cache.folder} '
                    f'({len(self.cache):,} images); '
                    f'{"flips were" if flipped else "it was"} added '
                    f'{"" if flipped else "or changed "}later: run minigpt4 '
                    'cache-features again, which keeps the cached images.'
                ) from None
        return {**record, 'images': images}
