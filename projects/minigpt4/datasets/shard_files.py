# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Finding shards and reading their bytes, with a time limit."""

import bz2
import gzip
import io
import lzma
import os
import queue
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from glob import glob, has_magic
from typing import BinaryIO

from webdataset.gopen import gopen, gopen_schemes
from webdataset.shardlists import expand_urls

from ..utils.errors import one_line
from ..utils.file_types import archive_format
from ..utils.regular_files import open_regular
from ..utils.time_limit import READ_SECONDS_VARIABLE, read_seconds

_CHUNK = 1 << 20
_AHEAD = 4  # chunks that are read before they are used
_REMOTE = re.compile(
    '({}):'.format(
        '|'.join(sorted({*gopen_schemes} - {'__default__', 'file'}))
    )
)
_UNPACKERS: dict[str, Callable] = {
    'gzip': lambda file: gzip.GzipFile(fileobj=file),
    'bzip2': bz2.BZ2File,
    'xz': lzma.LZMAFile,
}


class ShardReadError(Exception):
    """The bytes of a shard cannot be read."""


def is_remote(shard: str) -> bool:
    """Whether a shard is a URL or a command (``pipe:``) of webdataset."""
    return _REMOTE.match(shard) is not None


def find_shards(
    shards: 'str | Sequence[str]',
) -> tuple[list[str], set[str], int]:
    """Find the shards of a source.

    A command (``pipe:``) or a URL counts only where the pattern itself is
    one: a file that a wildcard finds is a file, whatever its name.

    Args:
        shards: Paths or URLs with braces; paths with wildcards too.

    Returns:
        The shards that exist, which of them are URLs or commands, and how
        many do not exist.
    """
    found: list[str] = []
    remote: set[str] = set()
    missing = 0
    single = isinstance(shards, (str, os.PathLike))
    for pattern in map(str, [shards] if single else shards):
        if os.path.exists(pattern) and not is_remote(pattern):
            found.append(pattern)  # braces and brackets are of its name
            continue
        for path in _expanded(pattern):
            if is_remote(path):
                found.append(path)
                remote.add(path)
                continue
            path = re.sub('^file:(//)?', '', path)
            # a wildcard may find "pipe:x.tar", which is not a command
            names = [path]
            if has_magic(path) and not os.path.exists(path):
                names = sorted(glob(path))
            existing = [name for name in names if os.path.exists(name)]
            found += [f'./{n}' if is_remote(n) else n for n in existing]
            missing += len(names) - len(existing)
    return found, remote, missing


def _expanded(pattern: str) -> list[str]:
    try:
        return expand_urls(pattern)
    except ValueError:  # one brace alone: it is of the name
        return [pattern]


class ShardBytes:
    """The bytes of a shard, unpacked, which a thread reads ahead.

    A context manager. The thread is a daemon: where a file system does not
    respond, it is abandoned.

    Args:
        shard: A path, or a URL or command of webdataset.
        remote: Whether it is a URL or a command.

    Attributes:
        size: Bytes of a file that is not compressed, else None. It is known
            after the first chunk.
    """

    def __init__(self, shard: str, remote: bool = False) -> None:
        self.shard, self.remote = shard, remote
        self.size: int | None = None
        self._chunks: queue.SimpleQueue = queue.SimpleQueue()
        self._slots = threading.Semaphore(_AHEAD)
        self._closed = False

    def __enter__(self) -> 'ShardBytes':
        threading.Thread(
            target=self._run, name='minigpt4-shard', daemon=True
        ).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed = True
        self._slots.release()

    def __iter__(self) -> Iterator[bytes]:
        """Chunks of bytes.

        Raises:
            ShardReadError: It is not a regular file, cannot be read or
                unpacked, or does not respond within the time limit.
        """
        seconds = read_seconds()
        while True:
            try:
                chunk = self._chunks.get(timeout=seconds)
            except queue.Empty:
                raise ShardReadError(
                    f'not read within {seconds:g} seconds, the file system '
                    f'does not respond; {READ_SECONDS_VARIABLE} sets the limit'
                ) from None
            self._slots.release()
            if isinstance(chunk, Exception):
                raise ShardReadError(
                    f'{type(chunk).__name__}: {one_line(chunk)}'
                ) from chunk
            if not chunk:
                return
            yield chunk

    def _run(self) -> None:
        """Read in a thread; an error is passed to the reader."""
        try:
            with self._open() as file:
                while True:
                    self._slots.acquire()
                    if self._closed:
                        return
                    chunk, error = _read_chunk(file)
                    if chunk or error is None:
                        self._chunks.put(chunk)
                    if error is not None:
                        raise error
                    if not chunk:
                        return
        except Exception as error:
            self._chunks.put(error)

    def _open(self) -> BinaryIO:
        if self.remote:
            return _unpacked(io.BufferedReader(_Raw(gopen(self.shard))))
        file = open_regular(self.shard)
        unpacked = _unpacked(file)
        if unpacked is file:
            self.size = os.fstat(file.fileno()).st_size
        return unpacked


def _read_chunk(file) -> tuple[bytes, Exception | None]:
    """What can be read before an error (of a packed file that was cut)."""
    parts, size = [], 0
    try:
        while size < _CHUNK:
            part = file.read1(_CHUNK - size)
            if not part:
                break
            parts.append(part)
            size += len(part)
    except Exception as error:
        return b''.join(parts), error
    return b''.join(parts), None


class _Raw(io.RawIOBase):
    """A stream of webdataset as Python's own."""

    def __init__(self, stream) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
        super().close()


def _unpacked(file) -> BinaryIO:
    """The stream, without gzip, bzip2 or xz.

    Raises:
        ValueError: It is packed otherwise.
    """
    name = archive_format(file.peek(8)[:8])
    if name is None:
        return file
    if name not in _UNPACKERS:
        raise ValueError(
            f'packed with {name}; expected tar, or tar in gzip, bzip2 or xz'
        )
    return _UNPACKERS[name](file)
