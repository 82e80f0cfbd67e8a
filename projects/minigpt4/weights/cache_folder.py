# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Where downloaded and converted files are kept."""

import os
from pathlib import Path

from filelock import AcquireReturnProxy, FileLock, Timeout
from mmengine.logging import print_log
from platformdirs.unix import Unix


def cache_folder() -> Path:
    """Return the folder for downloaded and converted files.

    It is ``MINIGPT4_CACHE``, else ``$XDG_CACHE_HOME/minigpt4``, else
    ``~/.cache/minigpt4``; on macOS too, like the caches of torch and of
    huggingface_hub.
    """
    if os.environ.get('MINIGPT4_CACHE'):
        return Path(os.environ['MINIGPT4_CACHE']).expanduser()
    return Unix('minigpt4').user_cache_path.expanduser()


def cache_lock(path: Path, doing: str) -> AcquireReturnProxy:
    """Lock a file or folder of the cache; log if that has to wait.

    Args:
        path: The file or folder, which need not exist.
        doing: What the other process does, for the log: ``'downloads'``.

    Returns:
        A context manager that releases the lock. The kernel releases it when
        the process ends.

    Raises:
        OSError: The folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(f'.{path.name}.lock'))
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        print_log(
            f'waiting for another process that {doing} {path.name}',
            logger='current',
        )
        return lock.acquire()
