# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""What the frozen half sees in each image, kept on disk.

A cache is a folder: ``cache.json`` says what made the features, and each
writer (rank) appends to files of its own: the queries of its images, the
digests of their bytes beside them, and the digests of images that could not
be read. A record counts once its digest stands there, so a writer may be
killed at any time and go on later.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..atomic import write_atomically
from ..registry import TRANSFORMS
from .images import SampleError

DIGEST_BYTES = 16
DTYPES = {'float16': np.float16, 'float32': np.float32}
_META = 'cache.json'


def read_bytes(source: 'str | Path | bytes') -> bytes:
    """The bytes of an image.

    Raises:
        SampleError: There is no such file.
    """
    if isinstance(source, bytes):
        return source
    try:
        return Path(source).read_bytes()
    except OSError as error:
        raise SampleError(
            f'{source} cannot be read ({error.strerror}); give the path of '
            'an image.'
        ) from error


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
        ValueError: The folder holds a cache of another maker or type.
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
        meta: dict = dict(maker=maker, shape=list(shape), dtype=dtype)
        if (folder / _META).is_file():
            cache = FeatureCache(folder)
            cache.check(maker)
            if cache.dtype != DTYPES[dtype]:
                raise ValueError(
                    f'the features in {folder} are {cache.dtype.__name__}, '
                    f'not {dtype}; go on with their type, or make others in '
                    'another folder.'
                )
        else:
            write_atomically(folder / _META, json.dumps(meta).encode())
        self.dtype = DTYPES[dtype]
        stem = folder / f'{rank:04d}'
        record = int(np.prod(shape)) * np.dtype(self.dtype).itemsize
        digests, features = (
            stem.with_suffix(suffix) for suffix in ('.digests', '.features')
        )
        for path in (digests, features, stem.with_suffix('.skipped')):
            path.touch()
        # a record that was cut off is written again
        whole = min(
            digests.stat().st_size // DIGEST_BYTES,
            features.stat().st_size // record,
        )
        self._digests = open(digests, 'r+b')
        self._features = open(features, 'r+b')
        self._skipped = open(stem.with_suffix('.skipped'), 'ab')
        for file, size in (
            (self._digests, DIGEST_BYTES),
            (self._features, record),
        ):
            file.truncate(whole * size)
            file.seek(0, 2)

    def add(self, digests: Sequence[bytes], queries: Tensor) -> None:
        """Append the queries ``(N, tokens, width)`` of some images."""
        array = queries.to('cpu', torch.float32).numpy().astype(self.dtype)
        self._features.write(array.tobytes())
        self._features.flush()
        self._digests.write(b''.join(digests))
        self._digests.flush()

    def skip(self, digest: bytes) -> None:
        """Note an image that cannot be read."""
        self._skipped.write(digest)
        self._skipped.flush()

    def close(self) -> None:
        """Close the files."""
        for file in (self._digests, self._features, self._skipped):
            file.close()


class FeatureCache:
    """Reads a cache; what it holds when it is opened.

    Args:
        folder: The cache.

    Raises:
        FileNotFoundError: There is no cache.
    """

    def __init__(self, folder: 'str | Path') -> None:
        self.folder = Path(folder)
        if not (self.folder / _META).is_file():
            raise FileNotFoundError(
                f'{folder} holds no {_META}, so it is no feature cache; make '
                'one with: minigpt4 cache-features CONFIG -o DIR.'
            )
        meta = json.loads((self.folder / _META).read_text())
        self.maker = meta['maker']
        self.shape = tuple(meta['shape'])
        self.dtype = DTYPES[meta['dtype']]
        self._files = sorted(self.folder.glob('*.features'))
        self._maps: list[np.ndarray] | None = None  # each process its own
        record = int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize
        keys, places = [], []
        for number, path in enumerate(self._files):
            found = _read_digests(path.with_suffix('.digests'))
            found = found[: path.stat().st_size // record]
            keys.append(found)
            rows = np.arange(len(found), dtype=np.int64)
            places.append(np.stack((np.full_like(rows, number), rows), 1))
        joined = np.concatenate([np.empty((0, 2), np.uint64), *keys])
        # found by the first half of the digest, made sure of by the second
        order = np.argsort(joined[:, 0], kind='stable')
        self._keys = joined[order]
        self._places = np.concatenate([np.empty((0, 2), np.int64), *places])[
            order
        ]
        self.skipped = {
            path.read_bytes()[i : i + DIGEST_BYTES]
            for path in self.folder.glob('*.skipped')
            for i in range(0, path.stat().st_size, DIGEST_BYTES)
        }

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
        """
        at = self._find(digest)
        if at is None:
            raise KeyError(digest.hex())
        if self._maps is None:
            self._maps = [
                np.memmap(path, self.dtype, 'r') for path in self._files
            ]
        number, row = self._places[at]
        size = int(np.prod(self.shape))
        flat = self._maps[number][row * size : (row + 1) * size]
        return torch.from_numpy(np.array(flat).reshape(self.shape))

    def check(self, maker: dict) -> None:
        """Refuse features of another eye.

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
        return {**self.__dict__, '_maps': None}


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) < 60 else text[:57] + '...'


def _read_digests(path: Path) -> np.ndarray:
    """``(N, 2)`` uint64, of whole digests."""
    data = path.read_bytes()
    data = data[: len(data) // DIGEST_BYTES * DIGEST_BYTES]
    return np.frombuffer(data, np.uint64).reshape(-1, 2)


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
