# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Files and folders that are written whole or not at all."""

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

_cleaned: set[str] = set()  # folders without abandoned temporary files


def make_folder(folder: 'str | Path') -> None:
    """Make a folder and its parents, where they are not there yet.

    Raises:
        NotADirectoryError: A file has that name, or the name of a parent.
        OSError: It could not be made.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        parts = (folder, *folder.parents)
        wrong = next((p for p in parts if os.path.lexists(p)), folder)
        raise NotADirectoryError(
            f'{wrong} is a file, but a folder is needed there; give another '
            'name, or remove it first.'
        ) from error


@contextlib.contextmanager
def replacing(path: 'str | Path') -> Iterator[Path]:
    """Write a file or folder under a temporary name, then rename it.

    Each writer has a temporary name of its own in the same folder, so that
    several may write one file: the last to finish wins, and every reader
    sees a whole file. Temporary files of writers of this host that have
    ended are removed.

    Args:
        path: Where to; its parent is made. A file of that name is replaced.

    Yields:
        The temporary path. The body makes a file or a folder of it.

    Raises:
        FileExistsError: A folder of that name is not empty.
        NotADirectoryError: A parent of it is a file.
        OSError: It could not be written (a full disk, say).

    Whatever the body raises, no temporary file remains and a file that was
    there before is unchanged.
    """
    path = Path(path)
    if path.is_dir() and any(path.iterdir()):
        raise FileExistsError(
            f'{path} is a folder that is not empty; give another name, or '
            'remove it first.'
        )
    make_folder(path.parent)
    _remove_abandoned(path.parent)
    part = path.with_name(
        f'.{_short(path.name)}.{_host()}-{os.getpid()}-'
        f'{secrets.token_hex(4)}.part'
    )
    try:
        yield part
        if part.is_dir() and path.is_dir():
            path.rmdir()
        os.replace(part, path)
        _sync_folder(path.parent)
    except BaseException as error:
        _remove(part)
        if isinstance(error, OSError) and error.errno and not error.filename:
            error.filename = str(path)  # a full disk names no file
        raise


def _host() -> str:
    """The host's name, in characters that a file name may have."""
    return re.sub(r'[^A-Za-z0-9]', '_', socket.gethostname())[:32]


def _short(name: str) -> str:
    """A name, or a digest of one that leaves no room for a suffix."""
    data = os.fsencode(name)
    return name if len(data) <= 150 else hashlib.sha256(data).hexdigest()


def _remove_abandoned(folder: Path) -> None:
    """Remove a folder's temporary files whose writer on this host has ended.

    Once for each folder and process, as the folder may be large.
    """
    place = os.path.abspath(folder)
    if place in _cleaned:
        return
    _cleaned.add(place)
    own = re.compile(rf'\..+\.{_host()}-(\d+)-[0-9a-f]{{8}}\.part')
    for entry in os.scandir(folder):
        match = own.fullmatch(entry.name)
        if match and not _is_running(int(match[1])):
            _remove(Path(entry.path))


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # of another user
        return True
    return True


def _sync_folder(folder: Path) -> None:
    """Make a new name survive a power failure, where the system can."""
    with contextlib.suppress(OSError):  # some network file systems refuse
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
    """Write a file through a temporary one that then takes its name.

    Args:
        path: Where to; its folder is made.
        data: What to write.

    Raises:
        OSError: It could not be written (a full disk, say); what was there
            before is unchanged and no temporary file remains.
    """
    path = Path(path)
    try:
        with replacing(path) as part, open(part, 'wb') as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise OSError(
            error.errno,
            f'{path} ({len(data):,} bytes) could not be saved '
            f'({error.strerror or error}); what was saved before is whole'
            + (': free some space and resume' if full else ''),
        ) from error
