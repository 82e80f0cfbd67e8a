# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Read a shard from a server, an object store or a command, with retries.

A read that fails is continued at the same byte over a new connection. After
temporary errors of a server, such as HTTP 503, it is tried until the time
limit of a read has passed; after other errors ``ATTEMPTS`` times. fsspec
reads s3, gs and other stores; its http file system needs aiohttp and cannot
be interrupted, so http is read with the standard library.
"""

import base64
import contextlib
import email.utils
import io
import logging
import os
import re
import shutil
import signal
import ssl
import threading
import time
from http.client import HTTPException, InvalidURL
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, unquote, urlsplit
from urllib.request import Request, urlopen

import fsspec
from fsspec.registry import known_implementations
from mmengine.logging import print_log
from webdataset import utils as webdataset_utils
from webdataset.gopen import Pipe, gopen, gopen_schemes

from ..utils.errors import one_line
from ..utils.time_limit import READ_SECONDS_VARIABLE, read_seconds

ATTEMPTS = 3  # without a new byte between them
FIRST_WAIT = 0.5  # seconds before the second attempt; then twice as long
_MAX_WAIT = 10.0  # seconds, unless the server asks for a longer wait
_LOGGED_ATTEMPT = 3  # after it a warning reports the wait
# request timeout, too early, too many requests, temporary server errors
_RETRY_STATUS = (408, 425, 429, 500, 502, 503, 504)
_SKIP_BYTES = 1 << 20
_PIPE_BYTES = 8192  # as in webdataset
# of a store; s3fs would read 50 MiB for each stream
_BLOCK_BYTES = 4 << 20
_LOCAL = ('__default__', 'file', 'local')
_COMMANDS = '|'.join(sorted({*gopen_schemes} - {*_LOCAL}))
_STORES = '|'.join(sorted({*known_implementations} - {*_LOCAL}))
# a local name such as run:1/0.tar has a colon too
_REMOTE = re.compile(f'(?:{_COMMANDS}):|(?i:{_STORES}|{_COMMANDS})://')
_LOGIN = re.compile(r"""://[^/?#\s'"]*@""")  # of a URL, also in a command
_RANGE = re.compile(r'bytes ([0-9]+)-([0-9]+)/([0-9]+|\*)')
_URL_CHARACTERS = "%/:=&?~#+!$,;'@()*[]"  # that have a meaning or are legal
# commands that webdataset runs where the package is not installed
_PROGRAMS = {'gs': 'gsutil', 'ais': 'ais'}  # of the others: curl


class ChangedShardError(OSError):
    """A shard has changed on its server while it was read."""


def is_remote(shard: str) -> bool:
    """Return whether a shard is a URL or a command (``pipe:``)."""
    return _REMOTE.match(shard) is not None


def shown(shard: str) -> str:
    """Return a shard's name for logs and files: ``***`` for its login."""
    return _LOGIN.sub('://***@', shard)


def normal_scheme(shard: str) -> str:
    """Return a remote shard with its scheme (``HTTP``) in lower case."""
    scheme, colon, rest = shard.partition(':')
    return scheme.lower() + colon + rest


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
            f'{shown(shard)} needs a Python package that is not installed: '
            f'{reason}.'
        )
    program = _PROGRAMS.get(scheme, 'curl')
    if shutil.which(program) is None:
        raise ValueError(
            f'{shown(shard)} needs a Python package or the program '
            f'{program}, and neither is installed: {reason}.'
        )


class RemoteShard(io.RawIOBase):
    """The bytes of a remote shard, with retries.

    Args:
        shard: A URL or a command.

    Attributes:
        size: Size in bytes, if the server names it; set by the first read.
        last_error: The last error after which it was tried again.
    """

    def __init__(self, shard: str) -> None:
        self.shard = shard
        self.size: int | None = None
        self.last_error: Exception = ConnectionError('no error')
        self._version: str | None = None
        self._stream: Any = None
        self._offset = 0
        self._piece_end: int | None = None  # of a range, if it is shorter
        self._interrupted = threading.Event()

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read up to the size of a buffer.

        Raises:
            Exception: The shard cannot be read, in several attempts. The
                types of errors depend on the store.
        """
        end = time.monotonic() + read_seconds()
        wait = FIRST_WAIT
        attempt = 1
        while True:
            try:
                return self._read_once(buffer)
            except Exception as error:  # a store raises errors of its own
                self._disconnect()
                if isinstance(error, HTTPError):
                    error.close()
                left = end - time.monotonic()
                if (
                    self._interrupted.is_set()
                    or _is_final(error)
                    or (not _is_temporary(error) and attempt >= ATTEMPTS)
                    or left <= wait
                ):
                    raise
                self.last_error = error
            if attempt == _LOGGED_ATTEMPT:
                self._log_wait(left)
            # one attempt before the limit, if the server asks for more
            asked = min(_asked_wait(self.last_error), 0.9 * left)
            if self._interrupted.wait(max(wait, asked)):
                raise self.last_error
            wait = min(2 * wait, _MAX_WAIT)
            attempt += 1

    def _log_wait(self, seconds: float) -> None:
        print_log(
            f'shard {shown(self.shard)} cannot be read '
            f'({one_line(self.last_error)}); it is tried again for '
            f'{seconds:.0f} seconds ({READ_SECONDS_VARIABLE} sets the limit).',
            logger='current',
            level=logging.WARNING,
        )

    def close(self) -> None:
        """Close the connection."""
        if not self.closed:
            self._disconnect()
        super().close()

    def interrupt(self) -> None:
        """End a command that does not respond, and the attempts."""
        self._interrupted.set()
        stream = self._stream
        if isinstance(stream, Pipe):
            _end_command(stream)

    def _read_once(self, buffer: Any) -> int:
        if self._offset == self.size:
            return 0
        if self._stream is None:
            self._connect()
        data = self._read(len(buffer))
        if not data and self._offset == self._piece_end != self.size:
            self._disconnect()
            if not self._connect_next():
                return 0
            data = self._read(len(buffer))
        if not data and isinstance(self._stream, Pipe):
            _wait_for_command(self._stream)
        end = self._piece_end if self.size is None else self.size
        if not data and end is not None and self._offset < end:
            raise ConnectionError(
                f'the connection was closed after {self._offset:,} of '
                f'{end:,} bytes'
            )
        self._offset += len(data)
        buffer[: len(data)] = data
        return len(data)

    def _read(self, size: int) -> bytes:
        stream = self._stream
        # Pipe.read drops the bytes of a command that has failed
        return (stream.stream if isinstance(stream, Pipe) else stream).read(
            size
        )

    def _connect(self) -> None:
        """Open the shard at the offset."""
        scheme = self.shard.partition(':')[0]
        if scheme in ('http', 'https'):
            self._connect_http()
        elif scheme == 'pipe':
            self._stream = _start_command(self.shard)
            self._skip(self._offset)
        elif _has_package(scheme):
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
        if response.status == 206:
            self._check_range(response.headers.get('Content-Range', ''))
            return
        self._piece_end = None
        length = response.headers.get('Content-Length')
        if length is not None:
            self._set_size(int(length))
        self._skip(self._offset)

    def _check_range(self, found: str) -> None:
        """Note the end of the range that a server has sent, and the size."""
        match = _RANGE.fullmatch(found)
        if match is None or int(match[1]) != self._offset:
            raise ConnectionError(
                f'the server sent the bytes {found!r}, not those from '
                f'{self._offset} on'
            )
        self._piece_end = int(match[2]) + 1
        if match[3] != '*':
            self._set_size(int(match[3]))

    def _connect_next(self) -> bool:
        """Ask for the next range; return whether there is one."""
        try:
            self._connect()
        except HTTPError as error:
            # of a shard whose size was not named
            if error.code == 416 and self.size is None:
                error.close()
                self.size = self._offset
                return False
            raise
        return True

    def _set_size(self, size: int | None) -> None:
        if self.size not in (None, size):
            raise ChangedShardError(
                f'it had {self.size:,} bytes and has changed while it was read'
            )
        self.size = size

    def _skip(self, size: int) -> None:
        """Read bytes that were read before."""
        while size:
            data = self._read(min(size, _SKIP_BYTES))
            if not data:
                raise ConnectionError(
                    f'it ended {size:,} bytes before the byte that was '
                    'reached before'
                )
            size -= len(data)

    def _disconnect(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            if isinstance(stream, Pipe):
                _end_command(stream)
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
    if isinstance(error, URLError):
        return isinstance(error.reason, ssl.SSLCertVerificationError)
    return isinstance(
        error,
        (
            ChangedShardError,
            FileNotFoundError,
            InvalidURL,
            PermissionError,
            ValueError,
        ),
    )


def _is_temporary(error: Exception) -> bool:
    """Whether a server may recover from an error within minutes."""
    # of a URLError: no connection, or no address of the name (DNS)
    errors = (URLError, ConnectionError, TimeoutError, HTTPException)
    return isinstance(error, errors)  # an HTTPError is a URLError


def _asked_wait(error: Exception) -> float:
    """Seconds that a server asks to wait (``Retry-After``), or 0."""
    if not isinstance(error, HTTPError):
        return 0.0
    text = (error.headers.get('Retry-After') or '').strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        date = email.utils.parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return 0.0
    return max(date.timestamp() - time.time(), 0.0)


def _start_command(shard: str) -> Pipe:
    """Run a command in a process group, which can be ended as a whole."""
    # webdataset 0.2.111 and older have no such setting
    if getattr(webdataset_utils, 'enforce_security', False):
        raise ValueError('webdataset is set to start no command (pipe:)')
    return Pipe(
        shard.partition(':')[2],
        mode='rb',
        shell=True,
        bufsize=_PIPE_BYTES,
        ignore_status=[128 + signal.SIGPIPE],
        start_new_session=True,
    )


def _wait_for_command(pipe: Pipe) -> None:
    """Wait for the end of a command.

    Raises:
        OSError: It has failed.
    """
    try:
        pipe.wait_for_child()
    except OSError:
        status = pipe.proc.returncode
        end = f'exit code {status}' if status >= 0 else f'signal {-status}'
        hint = ' (command not found)' if status == 127 else ''
        raise OSError(f'the command ended with {end}{hint}') from None


def _end_command(pipe: Pipe) -> None:
    """End a command with the processes that it has started."""
    process = pipe.proc
    if process.returncode is not None:
        return  # its number may belong to another process
    with contextlib.suppress(OSError):
        # webdataset's other commands are in the group of this process
        if os.getpgid(process.pid) == process.pid:
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()


def _request(url: str) -> Request:
    """Make a request; user and password of the URL become a header."""
    headers = {'User-Agent': 'minigpt4', 'Accept-Encoding': 'identity'}
    parts = urlsplit(url)
    login, _, host = parts.netloc.rpartition('@')
    if not host.isascii():
        host = host.encode('idna').decode()
    path = quote(
        url.partition('://')[2][len(parts.netloc) :], safe=_URL_CHARACTERS
    )
    request = Request(f'{parts.scheme}://{host}{path}', headers=headers)
    if login:
        code = base64.b64encode(unquote(login).encode()).decode()
        # not sent to the host of a redirection
        request.add_unredirected_header('Authorization', f'Basic {code}')
    return request
