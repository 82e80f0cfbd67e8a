# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Open files of users: regular files only, so that no read blocks."""

import contextlib
import os
import stat
from collections.abc import Iterator
from typing import BinaryIO

_KINDS = {
    stat.S_IFIFO: 'a FIFO',
    stat.S_IFCHR: 'a character device',
    stat.S_IFBLK: 'a block device',
    stat.S_IFSOCK: 'a socket',
    stat.S_IFDIR: 'a folder',
}


class NotRegularFileError(ValueError):
    """A path names a FIFO, a device, a socket or a folder."""


class FileTooLargeError(ValueError):
    """A file has more bytes than the reader accepts."""


def open_regular(path: 'str | os.PathLike') -> BinaryIO:
    """Open a regular file for reading bytes.

    Opening never waits for the writer of a FIFO. The opened file is checked
    again, as the path may change between the first check and the opening.

    Args:
        path: The file; symbolic links are followed.

    Raises:
        NotRegularFileError: The path is a FIFO, a device, a socket or a
            folder.
        OSError: The file is missing or cannot be opened.
    """
    _require_regular(path, os.stat(path).st_mode)
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _require_regular(path, os.fstat(descriptor).st_mode)
        os.set_blocking(descriptor, True)
        return os.fdopen(descriptor, 'rb')
    except BaseException:
        os.close(descriptor)
        raise


def _require_regular(path: 'str | os.PathLike', mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), 'a special file')
        raise NotRegularFileError(
            f'{os.fspath(path)} is {kind}; expected a regular file.'
        )


@contextlib.contextmanager
def _named(path: 'str | os.PathLike') -> Iterator[None]:
    """Add the name of a file to an error of reading, which has none."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = os.fspath(path)
        raise


def read_regular(
    path: 'str | os.PathLike', max_bytes: int | None = None
) -> bytes:
    """Read a regular file completely.

    Args:
        path: The file; symbolic links are followed.
        max_bytes: Largest accepted size in bytes; None for no limit.

    Raises:
        FileTooLargeError: The file has more than ``max_bytes``.
        NotRegularFileError: As :func:`open_regular`.
        OSError: As :func:`open_regular`.
    """
    with open_regular(path) as file, _named(path):
        if max_bytes is None:
            return file.read()
        size = os.fstat(file.fileno()).st_size
        if size <= max_bytes:
            # one more byte shows whether the file grows meanwhile
            data = file.read(size + 1)
            while len(data) > size and len(data) <= max_bytes:
                size = len(data)
                data += file.read(1 << 20)
            if len(data) <= max_bytes:
                return data
    raise FileTooLargeError(
        f'{os.fspath(path)} is larger than {max_bytes:,} bytes; expected '
        'a smaller file.'
    )
