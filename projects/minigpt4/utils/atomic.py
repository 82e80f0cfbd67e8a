# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Write files and folders completely or not at all."""

import contextlib
import errno
import hashlib
import os
import re
import secrets
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

from .output_paths import cannot_write, not_a_folder
from .processes import is_running

# why a folder takes no new files: they do not pass
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT)

# folders whose abandoned temporary files this process has removed
_cleaned_folders: set[str] = set()


def make_folder(folder: 'str | Path') -> None:
    """Create a folder and its parents where they do not exist.

    Raises:
        NotADirectoryError: A file, or a symbolic link to nothing, has that
            name, or the name of a parent.
        OSError: The folder cannot be created.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        parts = (folder, *folder.parents)
        file = next((p for p in parts if os.path.lexists(p)), folder)
        raise NotADirectoryError(not_a_folder(file)) from error
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
        parts = (folder, *folder.parents)
        existing = next((p for p in parts if os.path.lexists(p)), folder)
        raise type(error)(
            cannot_write(folder, existing, str(error.strerror))
        ) from error


@contextlib.contextmanager
def replacing(path: 'str | Path') -> Iterator[Path]:
    """Write a file or folder under a temporary name, then rename it.

    Each writer uses its own temporary name in the same folder, so several
    processes may write one file: the last to finish wins, and every reader
    reads a complete file. Temporary files of processes of this host that
    have ended are removed. If the body raises, no temporary file remains and
    an existing file is unchanged.

    Args:
        path: The final path. Its parent is created; an existing file is
            replaced.

    Yields:
        The temporary path, where the body creates a file or a folder.

    Raises:
        FileExistsError: ``path`` is a folder that is not empty.
        NotADirectoryError: A parent of ``path`` is a file.
        OSError: ``path`` cannot be written, e.g. on a full disk. The message
            has its name and not the temporary one.
    """
    path = Path(path)
    if path.is_dir() and any(path.iterdir()):
        raise FileExistsError(
            f'{path} is a folder that is not empty; give another name, or '
            'remove it first.'
        )
    make_folder(path.parent)
    _remove_abandoned(path.parent)
    temporary = path.with_name(
        f'.{_stem(path.name)}.{_host()}-{os.getpid()}-'
        f'{secrets.token_hex(4)}.part'
    )
    try:
        yield temporary
        if temporary.is_dir() and path.is_dir():
            path.rmdir()
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except BaseException as error:
        _remove(temporary)
        if isinstance(error, OSError) and error.errno:
            if not error.filename:
                error.filename = str(path)  # ENOSPC carries no file name
            elif error.filename == str(temporary):
                if error.errno in _REFUSED:
                    raise type(error)(
                        cannot_write(path, path.parent, str(error.strerror))
                    ) from error
                error.filename, error.filename2 = str(path), None
        raise


def _host() -> str:
    """Return the host name, in characters that a file name may have."""
    return re.sub(r'[^A-Za-z0-9]', '_', socket.gethostname())[:32]


def _stem(name: str) -> str:
    """Return a name, or its digest if it leaves no room for a suffix."""
    data = os.fsencode(name)
    return name if len(data) <= 150 else hashlib.sha256(data).hexdigest()


def _remove_abandoned(folder: Path) -> None:
    """Remove temporary files of processes of this host that have ended.

    Each process does this once per folder, as a folder may be large.
    """
    absolute = os.path.abspath(folder)
    if absolute in _cleaned_folders:
        return
    _cleaned_folders.add(absolute)
    pattern = re.compile(rf'\..+\.{_host()}-(\d+)-[0-9a-f]{{8}}\.part')
    for entry in os.scandir(folder):
        match = pattern.fullmatch(entry.name)
        if match and not is_running(int(match[1])):
            _remove(Path(entry.path))


def _sync_folder(folder: Path) -> None:
    """Flush a renamed entry to disk, where the file system supports it."""
    with contextlib.suppress(OSError):  # some network file systems refuse it
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_atomically(path: 'str | Path', data: bytes) -> None:
    """Write a file under a temporary name, then rename it.

    Args:
        path: The file; its folder is created.
        data: The content.

    Raises:
        OSError: The file cannot be written, e.g. on a full disk. An existing
            file is unchanged and no temporary file remains.
    """
    path = Path(path)
    try:
        with replacing(path) as temporary, open(temporary, 'wb') as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        if error.errno is None:
            raise  # the message is complete
        disk_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise OSError(
            error.errno,
            f'{path} ({len(data):,} bytes) could not be saved '
            f'({error.strerror or error}); files saved earlier are complete'
            + (': free some space and resume' if disk_full else ''),
        ) from error
