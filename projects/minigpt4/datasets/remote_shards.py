# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Read a shard from a server, an object store or a command, with retries.

A read that fails is continued at the same byte over a new connection. fsspec
reads s3, gs and other stores; its http file system needs aiohttp and cannot
be interrupted, so http is read with the standard library.
"""

import base64
import contextlib
import io
import re
import shutil
import time
from typing import Any
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit
from urllib.request import Request, urlopen

import fsspec
from fsspec.registry import known_implementations
from webdataset.gopen import Pipe, gopen, gopen_schemes

from ..utils.time_limit import read_seconds

ATTEMPTS = 3  # without a new byte between them
FIRST_WAIT = 0.5  # seconds before the second attempt; then twice as long
# request timeout, too early, too many requests, temporary server errors
_RETRY_STATUS = (408, 425, 429, 500, 502, 503, 504)
_SKIP_BYTES = 1 << 20
# of a store; s3fs would read 50 MiB for each stream
_BLOCK_BYTES = 4 << 20
_LOCAL = ('__default__', 'file', 'local')
_COMMANDS = '|'.join(sorted({*gopen_schemes} - {*_LOCAL}))
_STORES = '|'.join(sorted({*known_implementations} - {*_LOCAL}))
# a local name such as run:1/0.tar has a colon too
_REMOTE = re.compile(f'(?:{_COMMANDS}):|(?:{_STORES})://')
# commands that webdataset runs where the package is not installed
_PROGRAMS = {'gs': 'gsutil', 'ais': 'ais'}  # of the others: curl


class ChangedShardError(OSError):
    """A shard has changed on its server while it was read."""


def is_remote(shard: str) -> bool:
    """Return whether a shard is a URL or a command (``pipe:``)."""
    return _REMOTE.match(shard) is not None


def check_store(shard: str) -> None:
    """Check that a remote shard can be opened here.

    Raises:
        ValueError: A Python package or a program is missing.
    """
    scheme = shard.partition(':')[0]
    if scheme in ('http', 'https', 'pipe'):
        return
    try:
        fsspec.get_filesystem_class(scheme)
        return
    except (ImportError, ValueError) as error:
        reason = str(error)
    if scheme not in gopen_schemes:
        raise ValueError(
            f'{shard} needs a Python package that is not installed: {reason}.'
        )
    program = _PROGRAMS.get(scheme, 'curl')
    if shutil.which(program) is None:
        raise ValueError(
            f'{shard} needs a Python package or the program {program}, and '
            f'neither is installed: {reason}.'
        )


class RemoteShard(io.RawIOBase):
    """The bytes of a remote shard, with retries.

    Args:
        shard: A URL or a command.

    Attributes:
        size: Size in bytes, if the server names it; set by the first read.
    """

    def __init__(self, shard: str) -> None:
        self.shard = shard
        self.size: int | None = None
        self._version: str | None = None
        self._stream: Any = None
        self._offset = 0
        self._is_interrupted = False

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read up to the size of a buffer.

        Raises:
            Exception: The shard cannot be read, in several attempts. The
                types of errors depend on the store.
        """
        wait = FIRST_WAIT
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self._read_once(buffer)
            except Exception as error:  # a store raises errors of its own
                self._disconnect()
                if isinstance(error, HTTPError):
                    error.close()
                if (
                    attempt == ATTEMPTS
                    or self._is_interrupted
                    or _is_final(error)
                ):
                    raise
            time.sleep(wait)
            wait *= 2
        raise AssertionError  # the last attempt returns or raises

    def close(self) -> None:
        """Close the connection."""
        if not self.closed:
            self._disconnect()
        super().close()

    def interrupt(self) -> None:
        """End a command that does not respond, and the attempts."""
        self._is_interrupted = True
        if isinstance(self._stream, Pipe):
            self._stream.proc.kill()

    def _read_once(self, buffer: Any) -> int:
        if self._stream is None:
            self._connect()
        data = self._stream.read(len(buffer))
        if not data and isinstance(self._stream, Pipe):
            self._stream.wait_for_child()  # raises if the command has failed
        if not data and self.size is not None and self._offset < self.size:
            raise ConnectionError(
                f'the connection was closed after {self._offset:,} of '
                f'{self.size:,} bytes'
            )
        self._offset += len(data)
        buffer[: len(data)] = data
        return len(data)

    def _connect(self) -> None:
        """Open the shard at the offset."""
        scheme = self.shard.partition(':')[0]
        if scheme in ('http', 'https'):
            self._connect_http()
        elif scheme != 'pipe' and _has_package(scheme):
            self._open_in_store()
        else:
            self._stream = gopen(self.shard)
            self._skip(self._offset)

    def _open_in_store(self) -> None:
        store, path = fsspec.core.url_to_fs(self.shard)
        self._stream = store.open(path, 'rb', block_size=_BLOCK_BYTES)
        self._set_size(getattr(self._stream, 'size', None))
        self._stream.seek(self._offset)

    def _connect_http(self) -> None:
        request = _request(self.shard)
        if self._offset:
            request.add_header('Range', f'bytes={self._offset}-')
            if self._version:
                request.add_header('If-Range', self._version)
        # less than the limit of a chunk, for a second attempt within it
        seconds = read_seconds() / ATTEMPTS
        response = self._stream = urlopen(request, timeout=seconds)
        tag = response.headers.get('ETag')
        version = tag if tag and not tag.startswith('W/') else None
        if version and self._version not in (None, version):
            raise ChangedShardError('it has changed while it was read')
        self._version = self._version or version
        length = response.headers.get('Content-Length')
        starts_at = 0
        if response.status == 206:
            starts_at = self._offset
            found = response.headers.get('Content-Range', '')
            if not found.startswith(f'bytes {starts_at}-'):
                raise ConnectionError(
                    f'the server sent the bytes {found!r}, not those from '
                    f'{starts_at} on'
                )
        if length is not None:
            self._set_size(starts_at + int(length))
        self._skip(self._offset - starts_at)

    def _set_size(self, size: int | None) -> None:
        if self.size not in (None, size):
            raise ChangedShardError(
                f'it had {self.size:,} bytes and has changed while it was read'
            )
        self.size = size

    def _skip(self, size: int) -> None:
        """Read bytes that were read before."""
        while size:
            data = self._stream.read(min(size, _SKIP_BYTES))
            if not data:
                raise ConnectionError(
                    f'it ended {size:,} bytes before the byte that was '
                    'reached before'
                )
            size -= len(data)

    def _disconnect(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            # a command that failed raises its exit status again
            with contextlib.suppress(Exception):
                stream.close()


def _has_package(scheme: str) -> bool:
    try:
        fsspec.get_filesystem_class(scheme)
    except (ImportError, ValueError):
        return False
    return True


def _is_final(error: Exception) -> bool:
    """Whether another attempt is of no use."""
    if isinstance(error, HTTPError):
        return error.code not in _RETRY_STATUS
    return isinstance(
        error, (ChangedShardError, FileNotFoundError, PermissionError)
    )


def _request(url: str) -> Request:
    """Make a request; user and password of the URL become a header."""
    headers = {'User-Agent': 'minigpt4', 'Accept-Encoding': 'identity'}
    host = urlsplit(url).netloc
    login, at, rest = host.rpartition('@')
    if not at:
        return Request(url, headers=headers)
    request = Request(url.replace(host, rest, 1), headers=headers)
    code = base64.b64encode(unquote(login).encode()).decode()
    # not sent to the host of a redirection
    request.add_unredirected_header('Authorization', f'Basic {code}')
    return request
