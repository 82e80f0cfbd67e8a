# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Where downloaded and converted files are kept."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout
from mmengine.logging import print_log
from platformdirs.unix import Unix

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def cache_folder() -> Path:
    """Return the folder for downloaded and converted files.

    It is ``MINIGPT4_CACHE``, else ``$XDG_CACHE_HOME/minigpt4``, else
    ``~/.cache/minigpt4``; on macOS too, like the caches of torch and of
    huggingface_hub.
    """
    if os.environ.get('MINIGPT4_CACHE'):
        return Path(os.environ['MINIGPT4_CACHE']).expanduser()
    return Unix('minigpt4').user_cache_path.expanduser()


@contextlib.contextmanager
def cache_lock(path: Path, doing: str, when_full: str = '') -> Iterator[None]:
    """Lock a file or folder of the cache; log if that has to wait.

    The kernel releases the lock when the process ends. Errors of writing in
    the body name the folder and the variable for another one.

    Args:
        path: The file or folder, which need not exist.
        doing: What the other process does, for the log: ``'downloads'``.
        when_full: What else the error of a full disk says.

    Raises:
        OSError: The folder cannot be written: no permission, no space.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_name(f'.{path.name}.lock'))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            print_log(
                f'waiting for another process that {doing} {path.name}',
                logger='current',
            )
            lock.acquire()
        try:
            yield
        finally:
            lock.release()
    except OSError as error:
        if isinstance(error, PermissionError) or error.errno == errno.EROFS:
            raise PermissionError(
                f'{path.parent} cannot be written ({error.strerror}); name '
                'another folder in MINIGPT4_CACHE.'
            ) from error
        if error.errno in DISK_FULL:
            raise OSError(
                error.errno,
                f'no space for {path.name} in {path.parent} '
                f'({error.strerror}); free some or name another folder in '
                f'MINIGPT4_CACHE{when_full}',
            ) from error
        raise
