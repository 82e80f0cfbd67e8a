# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Find shards and read their bytes, with a time limit."""

import bz2
import contextlib
import gzip
import io
import lzma
import os
import queue
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from glob import glob, has_magic
from typing import Any, BinaryIO

from webdataset.shardlists import expand_urls

from ..utils.data_manifest import read_shards
from ..utils.errors import one_line, printable
from ..utils.file_types import archive_format
from ..utils.regular_files import open_regular
from ..utils.time_limit import READ_SECONDS_VARIABLE, read_seconds
from .remote_shards import (
    RemoteShard,
    check_store,
    normal_scheme,
    shown,
)
from .remote_shards import is_remote as is_remote
from .shard_cache import CopiedShard, ShardCache

# a data worker has several shards open, and so small chunks
_CHUNK_BYTES = 1 << 18
_PREFETCHED = 4  # chunks that are read ahead
_HEAD_BYTES = 512
_PAGE = re.compile(
    rb'(?:\xef\xbb\xbf)?\s*<(\?xml|!doctype html|html)\b', re.IGNORECASE
)
_DECOMPRESSORS: dict[str, Callable] = {
    'gzip': lambda file: gzip.GzipFile(fileobj=file),
    'bzip2': bz2.BZ2File,
    'xz': lzma.LZMAFile,
}


class ShardReadError(Exception):
    """The bytes of a shard cannot be read or decompressed."""


class LostShardError(ShardReadError):
    """The disk, the server or the command does not give a shard's bytes."""


def find_shards(
    shards: 'str | Sequence[str]',
) -> tuple[list[str], set[str], int]:
    """Find the shards of a source.

    Only the pattern itself can be a command (``pipe:``) or a URL. A file that
    a wildcard matches is a file, whatever its name.

    Args:
        shards: Paths or URLs with braces; paths also with wildcards. A
            ``manifest.json`` of ``minigpt4 data check`` stands for the
            shards that it lists.

    Returns:
        The existing shards, which of them are URLs or commands, and the
        number of missing shards.

    Raises:
        ValueError: A manifest is invalid, a shard is on a store whose
            package is not installed, or its user and password are hidden.
    """
    found: list[str] = []
    remote: set[str] = set()
    schemes: set[str] = set()
    missing = 0
    for pattern in _patterns(shards):
        if os.path.exists(pattern) and not is_remote(pattern):
            found.append(pattern)  # its name has braces or brackets
            continue
        for path in _expand_braces(pattern):
            if is_remote(path):
                path = normal_scheme(path)
                scheme = path.partition(':')[0]
                if '://***@' in path:
                    raise ValueError(
                        f'{printable(path)[:200]} has no user and password '
                        '(***), as in the files that a run or "minigpt4 data '
                        'check" writes; set the address in the config.'
                    )
                if scheme not in schemes:
                    check_store(path)
                schemes.add(scheme)
                found.append(path)
                remote.add(path)
                continue
            path = re.sub('^file:(//)?', '', path)
            # a wildcard may match "pipe:x.tar", which is not a command
            names = [path]
            if has_magic(path) and not os.path.exists(path):
                names = sorted(glob(path))
            existing = [name for name in names if os.path.exists(name)]
            found += [f'./{n}' if is_remote(n) else n for n in existing]
            missing += len(names) - len(existing)
    return found, remote, missing


def _patterns(shards: 'str | Sequence[str]') -> Iterator[str]:
    """Yield the patterns of a source; for a manifest those that it lists."""
    single = isinstance(shards, (str, os.PathLike))
    for pattern in map(str, [shards] if single else shards):
        if pattern.lower().endswith('.json') and os.path.isfile(pattern):
            yield from read_shards(pattern)
        else:
            yield pattern


def _expand_braces(pattern: str) -> list[str]:
    try:
        return expand_urls(pattern)
    except ValueError:  # a single brace, which is part of the name
        return [pattern]


class ShardBytes:
    """The decompressed bytes of a shard, which a thread reads ahead.

    A context manager. The thread is a daemon and is abandoned if the file
    system does not respond.

    Args:
        shard: A path, or a URL or command.
        remote: Whether the shard is a URL or a command.
        cache: Cache of remote shards, if there is one.
        count: Function that is called with numbers of bytes that were read,
            before they are decompressed.

    Attributes:
        size: Size in bytes of an uncompressed file, else None; set before
            the first chunk is returned.
    """

    def __init__(
        self,
        shard: str,
        remote: bool = False,
        cache: ShardCache | None = None,
        count: Callable[[int], None] = lambda number: None,
    ) -> None:
        self.shard, self.remote, self.cache = shard, remote, cache
        self.size: int | None = None
        self._count, self._counted = count, 0
        self._raw: _CountedFile | None = None
        self._stream: RemoteShard | None = None
        self._copy: CopiedShard | None = None  # which is being made
        self._chunks: queue.SimpleQueue = queue.SimpleQueue()
        self._free_chunks = threading.Semaphore(_PREFETCHED)
        self._closed = False

    def __enter__(self) -> 'ShardBytes':
        threading.Thread(
            target=self._run, name='minigpt4-shard', daemon=True
        ).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed = True
        self._free_chunks.release()
        self._count_bytes()
        if self._stream is not None:
            self._stream.interrupt()
        if self._copy is not None:
            self._copy.discard()  # unless it was kept before

    def settle_copy(self, is_intact: bool) -> None:
        """Keep the shard's copy in the cache, or delete it.

        Called after the bytes were read to their end; without this call no
        new copy is kept.

        Args:
            is_intact: Whether the tar was read to its end mark without
                damage.
        """
        if is_intact and self._copy is not None:
            self._copy.keep()
        elif not is_intact and self.remote and self.cache is not None:
            self.cache.remove(self.shard)

    def __iter__(self) -> Iterator[bytes]:
        """Yield chunks of bytes.

        Raises:
            LostShardError: The shard is not a regular file, cannot be read,
                or is not read within the time limit.
            ShardReadError: It cannot be decompressed.
        """
        seconds = read_seconds()
        while True:
            try:
                chunk = self._chunks.get(timeout=seconds)
            except queue.Empty:
                if self._stream is not None:
                    self._stream.interrupt()
                raise LostShardError(
                    f'not read within {seconds:g} seconds, '
                    + (
                        'its server or command does not respond'
                        if self.remote
                        else 'the file system does not respond'
                    )
                    + f'; {READ_SECONDS_VARIABLE} sets the limit'
                ) from None
            self._free_chunks.release()
            self._count_bytes()
            if isinstance(chunk, ShardReadError):
                raise chunk
            if isinstance(chunk, Exception):
                is_lost = self._raw is None or self._raw.has_failed
                raise (LostShardError if is_lost else ShardReadError)(
                    shown(f'{type(chunk).__name__}: {one_line(chunk)}')
                ) from chunk
            if not chunk:
                return
            yield chunk

    def _count_bytes(self) -> None:
        """Report the bytes read since the last call.

        Not in the thread: several threads of a data worker would add to the
        same number.
        """
        number = self._raw.num_bytes if self._raw else 0
        self._count(number - self._counted)
        self._counted = number

    def _run(self) -> None:
        """Read chunks in the thread; pass an error to the iterator."""
        try:
            with self._open() as file:
                while True:
                    self._free_chunks.acquire()
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
            if self._raw is not None:
                # an incomplete copy is removed before the error is seen
                with contextlib.suppress(Exception):
                    self._raw.close()
            self._chunks.put(error)
        finally:
            if self._closed and self._copy is not None:
                self._copy.discard()  # completed after it was closed

    def _open(self) -> BinaryIO:
        source = self._open_remote() if self.remote else None
        local = open_regular(self.shard) if source is None else None
        self._raw = _CountedFile(local or source)
        file = io.BufferedReader(self._raw, _CHUNK_BYTES)
        decompressed = _decompress(file)
        if local is not None and decompressed is file:
            self.size = os.fstat(local.fileno()).st_size
        return decompressed

    def _open_remote(self) -> Any:
        if self.cache is None:
            self._stream = RemoteShard(self.shard)
            return self._stream
        copy = self.cache.find(self.shard)
        if copy is not None:
            return copy
        self._stream = RemoteShard(self.shard)
        self._copy = self.cache.copy(self._stream)
        return self._copy


def _read_chunk(file: Any) -> tuple[bytes, Exception | None]:
    """Read up to a chunk; return the bytes before an error, and the error."""
    pieces, size = [], 0
    try:
        while size < _CHUNK_BYTES:
            piece = file.read1(_CHUNK_BYTES - size)
            if not piece:
                break
            pieces.append(piece)
            size += len(piece)
    except Exception as error:  # e.g. of a truncated compressed file
        return b''.join(pieces), error
    return b''.join(pieces), None


class _CountedFile(io.RawIOBase):
    """A file whose bytes are counted."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.num_bytes = 0
        self.has_failed = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            size = self._file.readinto(buffer)
        except Exception:
            self.has_failed = True
            raise
        self.num_bytes += size
        return size

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def _decompress(file: Any) -> BinaryIO:
    """Return a stream that decompresses gzip, bzip2 or xz.

    Raises:
        ShardReadError: The stream is a web page, or compressed in another
            format.
    """
    head = file.peek(_HEAD_BYTES)[:_HEAD_BYTES]
    if page := _PAGE.match(head):
        kind = 'an XML document' if page[1] == b'?xml' else 'an HTML page'
        raise ShardReadError(
            f'it is {kind}, not a tar: the server answered with an error or '
            'a login page; check the address'
        )
    name = archive_format(head[:8])
    if name is None:
        return file
    if name not in _DECOMPRESSORS:
        raise ShardReadError(
            f'compressed with {name}; expected tar, or tar in gzip, bzip2 or '
            'xz'
        )
    return _DECOMPRESSORS[name](file)
