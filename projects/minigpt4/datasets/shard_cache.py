# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""A folder with copies of remote shards, limited in size.

A shard is copied while it is read for the first time, and the copy is kept
if the reader found no damage: a server may answer with an error page, or end
early without a ``Content-Length``. webdataset's cache downloads a shard
before its first sample is read, and deletes nothing while it downloads.
"""

import contextlib
import hashlib
import io
import logging
import os
import secrets
import socket
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from mmengine.logging import print_log

from ..utils.errors import one_line
from ..utils.locks import lock_file
from ..utils.processes import is_running
from .remote_shards import RemoteShard, shown

_STALE_SECONDS = 3600.0  # age of a part of another host, or without a process
_LOCK_SECONDS = 10.0


class ShardCache:
    """Copies of remote shards; all processes of a machine share the folder.

    A copy that a data set needs is not deleted to make room for another
    shard of it: each pass reads every shard once, so the copies that fit
    save the same share of the bytes in each pass. Deleting the copy that was
    not used for the longest time would often delete the next one to be read.
    Copies that no data set of this process needs make room, those that were
    not used for the longest time first. Two processes that read the same
    shard for the first time at the same time both read it from the server.

    Args:
        folder: The folder; it is created.
        max_bytes: Limit of its size.

    Raises:
        ValueError: The limit is not above 0, or the folder cannot be
            created.
    """

    def __init__(self, folder: 'str | Path', max_bytes: float) -> None:
        if not max_bytes > 0:
            raise ValueError(
                f'the size of the cache {folder} is {max_bytes!r} bytes; '
                'expected a number above 0.'
            )
        self.folder, self.max_bytes = Path(folder), max_bytes
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(
                f'the folder {folder} for copies of shards (cache_dir) '
                f'cannot be created ({one_line(error)}); expected a folder, '
                'or a path where one can be created.'
            ) from error
        self._needed: set[Path] = set()
        self._has_failed = False
        self._was_full = False

    def add_needed(self, shards: Iterable[str]) -> None:
        """Keep the copies of these shards when room is needed."""
        self._needed.update(map(self._path, shards))

    def find(self, shard: str) -> BinaryIO | None:
        """Open the copy of a shard; None if there is none."""
        path = self._path(shard)
        with self._failures_logged():  # e.g. a copy of another user
            try:
                file = open(path, 'rb')
            except FileNotFoundError:
                return None
            with contextlib.suppress(OSError):
                os.utime(path)  # the time of its last use
            return file
        return None

    def remove(self, shard: str) -> None:
        """Delete the copy of a shard, which is damaged."""
        with self._failures_logged():
            self._path(shard).unlink(missing_ok=True)

    def copy(self, stream: RemoteShard) -> 'CopiedShard':
        """Copy a shard into the cache while it is read."""
        return CopiedShard(stream, self)

    def start(self, shard: str, size: int | None) -> BinaryIO | None:
        """Open a file for a copy.

        Args:
            shard: The shard.
            size: Its size in bytes, if it is known.

        Returns:
            The file; None if there is no room for it.
        """
        path = self._path(shard)
        owner = f'{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}'
        part = path.with_name(f'{path.stem}-{owner}.part')
        with self._failures_logged():
            if not self._make_room(size or 0):
                self._log_full(shard)
                return None
            file = open(part, 'xb')
            file.truncate(size or 0)  # counts as used from now on
            return file
        return None

    def write(self, file: BinaryIO, data: bytes) -> bool:
        """Add bytes to a copy; return whether this has succeeded."""
        with self._failures_logged():
            file.write(data)
            return True
        return False

    def finish(self, part: str, shard: str) -> bool:
        """Give a complete copy its name; return whether this succeeded."""
        with self._failures_logged():
            path = self._path(shard)
            os.replace(part, path)
            if not self._make_room(0):  # its size was not known before
                path.unlink(missing_ok=True)
                self._log_full(shard)
            return True
        return False

    def flush(self, file: BinaryIO) -> bool:
        """Close the file of a copy; return whether this succeeded."""
        with self._failures_logged():
            file.close()
            return True
        return False

    @contextlib.contextmanager
    def _failures_logged(self) -> Iterator[None]:
        """Log the first failure, such as a full disk; read on without.

        A folder or a copy may also belong to another user.
        """
        try:
            yield
        except OSError as error:
            if not self._has_failed:
                self._has_failed = True
                print_log(
                    f'the cache of shards {self.folder} cannot be used '
                    f'({one_line(error)}); shards are read without it.',
                    logger='current',
                    level=logging.WARNING,
                )

    def _log_full(self, shard: str) -> None:
        """Log once that a shard does not fit."""
        if not self._was_full:
            self._was_full = True
            print_log(
                f'the cache of shards {self.folder} has no room for '
                f'{shown(shard)}: its limit is {self.max_bytes / 1e9:g} GB '
                '(cache_gb). Shards without a copy are read from their '
                'server in each pass.',
                logger='current',
                level=logging.WARNING,
            )

    def _path(self, shard: str) -> Path:
        digest = hashlib.sha256(shard.encode()).hexdigest()
        return self.folder / f'{digest[:32]}.shard'

    def _make_room(self, size: int) -> bool:
        """Delete copies until there is room; return whether there is."""
        with open(self.folder / '.lock', 'a') as lock:
            if not lock_file(lock, _LOCK_SECONDS):
                return False
            files = []
            for path in self.folder.glob('*.*'):
                if path.suffix in ('.part', '.shard'):
                    with contextlib.suppress(FileNotFoundError):
                        stat = path.stat()
                        files.append((stat.st_mtime, stat.st_size, path))
            total = sum(each for _, each, _ in files) + size
            for used, each, path in sorted(files):
                if path.suffix == '.part':
                    unneeded = (
                        time.time() - used > _STALE_SECONDS
                        or _is_abandoned(path)
                    )
                else:
                    unneeded = (
                        total > self.max_bytes and path not in self._needed
                    )
                if unneeded:
                    path.unlink(missing_ok=True)
                    total -= each
            return total <= self.max_bytes


def _is_abandoned(part: Path) -> bool:
    """Whether the process of this host that wrote a part has ended.

    Data workers are killed at the end of a run and leave their parts.
    """
    owner = part.stem.partition('-')[2].rsplit('-', 2)
    return (
        len(owner) == 3
        and owner[0] == socket.gethostname()
        and owner[1].isdecimal()
        and not is_running(int(owner[1]))
    )


class CopiedShard(io.RawIOBase):
    """A remote shard that is copied into a cache while it is read.

    :meth:`keep` or :meth:`discard` decides about a complete copy; it may be
    called after the shard was closed.
    """

    def __init__(self, stream: RemoteShard, cache: ShardCache) -> None:
        self._stream, self._cache = stream, cache
        self._file: BinaryIO | None = None
        self._part: str | None = None  # name of a complete copy
        self._has_started = False

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read from the stream, and copy what was read."""
        size = self._stream.readinto(buffer)
        if not self._has_started:
            self._has_started = True
            stream = self._stream
            self._file = self._cache.start(stream.shard, stream.size)
        file = self._file
        if file is None:
            return size
        if size:
            if not self._cache.write(file, bytes(buffer[:size])):
                self._remove()
        elif self._cache.flush(file):
            self._file, self._part = None, file.name
        else:
            self._remove()
        return size

    def keep(self) -> None:
        """Keep a complete copy: the shard was read without damage."""
        part = self._part
        if part and not self._cache.finish(part, self._stream.shard):
            self.discard()
        self._part = None

    def discard(self) -> None:
        """Delete a complete copy."""
        part, self._part = self._part, None
        if part is not None:
            with contextlib.suppress(OSError):
                os.unlink(part)

    def close(self) -> None:
        """Close the stream; an incomplete copy is removed."""
        if not self.closed:
            self._remove()
            self._stream.close()
        super().close()

    def _remove(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError):
                file.close()
            with contextlib.suppress(OSError):
                os.unlink(file.name)
