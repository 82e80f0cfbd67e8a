# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Errors of SQLite as one-line errors for the user."""

import contextlib
import errno
import fcntl
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .regular_files import NotRegularFileError


class DatabaseError(ValueError):
    """A file is no results database, or holds results of another kind."""


class DamagedDatabaseError(DatabaseError):
    """A file cannot be read as a database."""


def check_writable(path: Path, option: str = '-o') -> None:
    """Refuse early, and with the system's reason, what SQLite cannot open.

    Args:
        path: The database.
        option: The option that names it, for errors.
    """
    if path.exists() and not path.is_file():
        raise NotRegularFileError(
            f'{path} is not a regular file; give another {option}.'
        )
    for file in (path.parent, path):
        if file.exists() and not os.access(file, os.W_OK):
            read_only = os.statvfs(file).f_flag & os.ST_RDONLY
            number = errno.EROFS if read_only else errno.EACCES
            raise PermissionError(number, os.strerror(number), str(path))


@contextlib.contextmanager
def translated_errors(path: Path, option: str = '-o') -> Iterator[None]:
    """Raise errors of SQLite as errors for the user.

    Python 3.10 has no error codes of SQLite, so its fixed messages decide.

    Args:
        path: The database.
        option: The option that names it, for errors.
    """
    try:
        yield
    except sqlite3.Error as error:
        reason = str(error)
        if 'locked' in reason or 'locking protocol' in reason:
            if _has_locks(path.parent):
                raise BlockingIOError(
                    errno.EWOULDBLOCK,
                    f'another process is using {path}; wait until it ends',
                ) from error
            raise OSError(
                errno.ENOLCK,
                f'is on a file system without locks; give a {option} on '
                'another one',
                str(path),
            ) from error
        if 'full' in reason:
            raise OSError(
                errno.ENOSPC,
                f'{os.strerror(errno.ENOSPC)}; what was stored before is '
                'kept, and the same command continues from there',
                str(path),
            ) from error
        if 'readonly' in reason or 'open' in reason or 'I/O' in reason:
            raise OSError(
                errno.EIO,
                f'cannot be read and written ({reason}); give a {option} in '
                'another folder',
                str(path),
            ) from error
        raise damaged_error(path, reason, option) from error


def damaged_error(
    path: Path, reason: str, option: str = '-o'
) -> DamagedDatabaseError:
    """Build the error for a damaged file."""
    again = ', or --overwrite to begin again' if option == '-o' else ''
    return DamagedDatabaseError(
        f'{path} is damaged or no results database ({reason}); give another '
        f'{option}{again}.'
    )


def _has_locks(folder: Path) -> bool:
    """Whether the file system locks files.

    SQLite reports a file system without locks as a locked database.
    """
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
