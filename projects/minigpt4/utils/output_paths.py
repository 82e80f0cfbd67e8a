# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Check that a file or a folder can be written, before the work for it."""

import os
import tempfile
from pathlib import Path

from .errors import printable


def check_output_file(path: 'str | Path') -> None:
    """Check that a file can be created or replaced.

    Args:
        path: The file. Its folder may not exist yet.

    Raises:
        ValueError: It is a folder, a device, or a symbolic link to nothing.
        NotADirectoryError: A parent of it is a file.
        OSError: Its folder takes no new files.
    """
    path = Path(path)
    _refuse_broken_link(path)
    if os.path.isdir(path):
        raise ValueError(
            f'{printable(str(path))} is a folder; give the name of a file.'
        )
    if os.path.lexists(path) and not os.path.isfile(path):
        raise ValueError(
            f'{printable(str(path))} is a device or another special file; '
            'give the name of a file.'
        )
    _check_new_files(path, path.parent)


def check_output_folder(path: 'str | Path') -> None:
    """Check that a folder takes new files, or can be created.

    Raises:
        ValueError: It is a symbolic link to nothing.
        NotADirectoryError: It is a file, or a parent of it is.
        OSError: The folder, or its parent, takes no new files.
    """
    path = Path(path)
    _refuse_broken_link(path)
    _check_new_files(path, path)


def broken_link(path: 'str | Path') -> str:
    """Describe a symbolic link to nothing; '' for anything else."""
    if not os.path.islink(path) or os.path.exists(path):
        return ''
    return (
        f'{printable(str(path))} is a symbolic link to '
        f'{printable(os.readlink(path))}, which does not exist; remove the '
        'link, or give another name.'
    )


def not_a_folder(path: 'str | Path') -> str:
    """Describe a file where a folder is expected."""
    return broken_link(path) or (
        f'{printable(str(path))} is a file, but a folder is expected; give '
        'another name, or remove the file first.'
    )


def cannot_write(path: Path, folder: Path, reason: str) -> str:
    """Describe a file that cannot be written since its folder refuses it.

    Args:
        path: The file or folder that the user named.
        folder: The folder in which it would be created.
        reason: The error of the operating system.
    """
    place = '' if folder == path else f' in {printable(str(folder))}'
    return (
        f'{printable(str(path))} cannot be written: no file can be created'
        f'{place or " there"} ({reason}); give another name.'
    )


def _refuse_broken_link(path: Path) -> None:
    if message := broken_link(path):
        raise ValueError(message)


def _check_new_files(path: Path, folder: Path) -> None:
    """Create a file without a name, and remove it."""
    existing = next(
        (p for p in (folder, *folder.parents) if os.path.lexists(p)),
        Path(folder.anchor or '.'),
    )
    if not os.path.isdir(existing):
        raise NotADirectoryError(not_a_folder(existing))
    try:
        if len(os.fsencode(path.name)) > 255:
            raise OSError(None, 'its name is longer than 255 bytes')
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise OSError(
            cannot_write(path, existing, str(error.strerror or error))
        ) from error
