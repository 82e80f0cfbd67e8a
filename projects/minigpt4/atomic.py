# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Files and folders that are written whole or not at all."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: 'str | Path') -> Iterator[Path]:
    """Write a file or folder under a neighbour's name that then takes its own.

    Args:
        path: Where to; its parent is made. A file that stands there is
            replaced.

    Yields:
        The neighbour's path. The body makes a file or a folder of it.

    Raises:
        FileExistsError: A folder stands there that is not empty.
        OSError: It could not be written (a full disk, say).

    Whatever the body raises, nothing is left behind and what stood there is
    untouched.
    """
    path = Path(path)
    if path.is_dir() and any(path.iterdir()):
        raise FileExistsError(
            f'{path} is a folder that is not empty; give another name, or '
            'remove it first.'
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f'.{path.name}.part')
    _remove(part)
    try:
        yield part
        if part.is_dir() and path.is_dir():
            path.rmdir()
        os.replace(part, path)
    except BaseException:
        _remove(part)
        raise


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_atomically(path: 'str | Path', data: bytes) -> None:
    """Write a file through a neighbour that then takes its name.

    Args:
        path: Where to; its folder is made.
        data: What to write.

    Raises:
        OSError: It could not be written (a full disk, say); what stood there
            before is untouched and nothing is left behind.
    """
    path = Path(path)
    try:
        with replacing(path) as part, open(part, 'wb') as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OSError(
            error.errno,
            f'{path} ({len(data):,} bytes) could not be saved '
            f'({error.strerror or error}); what was saved before is whole: '
            'free some space and resume',
        ) from error
