# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Locks that allow one writer per folder or file.

:class:`FolderLock` protects a folder that runs on several hosts may share.
It is a POSIX record lock on a lock file, which names host and process for
the error of a second writer. On a file system that does not pass locks on to
other hosts, the age of the lock file decides: its owner touches it every
``TOUCH_SECONDS``.

:func:`lock_file` protects one file while it is written. It locks that file
itself with ``flock``, so it creates no second file next to the user's, but
cannot name the owner. The kernel releases both locks when a process ends.
``filelock``, with which :mod:`~minigpt4.weights.cache_folder` waits for
another process, does neither: it names no owner and has no age.
"""

import errno
import fcntl
import json
import logging
import os
import socket
import stat
import threading
import time
from pathlib import Path
from typing import IO

from mmengine.logging import print_log

from .processes import is_running
from .regular_files import NotRegularFileError

TOUCH_SECONDS = 30.0
STALE_SECONDS = 180.0
_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
# refuses a symbolic link, and does not wait for the reader of a FIFO
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
# Record locks do not exclude the same process, and closing a second
# descriptor of the file would release them, so this process notes its own.
_own_locks: dict[str, dict] = {}


def lock_file(file: IO, seconds: float = 0.0) -> bool:
    """Lock an open file for this process until the file is closed.

    On a file system without locks a warning is logged and the file counts as
    locked.

    Args:
        file: The file. A child process that inherits it has the lock too.
        seconds: How long to wait for another process.

    Returns:
        False if another process still has the lock.
    """
    end = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= end:
                return False
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            _warn(
                f'{file.name} is on a file system without locks '
                f'({error.strerror}); make sure that no second process '
                'writes it.'
            )
            return True
        time.sleep(0.1)


class LockedError(ValueError):
    """Another process writes into the folder."""


class UnwritableFolderError(OSError):
    """The folder cannot be created or written."""


class FolderLock:
    """Context manager that makes this process the only writer of a folder.

    Args:
        folder: The folder; it is created.
        purpose: What this process does there, e.g. ``'training'``. It names
            the lock file and is used in the error of a second process.

    Raises:
        LockedError: On entering: another process has the lock.
        UnwritableFolderError: On entering: the folder cannot be written.
        NotRegularFileError: On entering: the lock file is a symbolic link, a
            FIFO, a device or a folder.
    """

    def __init__(
        self, folder: 'str | Path', purpose: str = 'training'
    ) -> None:
        self.folder = Path(folder)
        self.purpose = purpose
        self.path = self.folder / f'.{purpose}.lock'
        self._descriptor: int | None = None
        self._released = threading.Event()

    def __enter__(self) -> 'FolderLock':
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._acquire()
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise NotRegularFileError(
                    f'{self.path} is a symbolic link; remove it.'
                ) from error
            raise UnwritableFolderError(
                error.errno,
                f'the folder cannot be written ({error.strerror}); give '
                'another one',
                str(self.folder),
            ) from error
        threading.Thread(target=self._touch, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._released.set()
        if self._descriptor is not None:
            # removed before it is unlocked, so that no other process can
            # lock a file that is about to be removed
            self.path.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = None
        _own_locks.pop(str(self.path.absolute()), None)

    def _acquire(self) -> None:
        owner = _own_locks.get(str(self.path.absolute()))
        if owner is not None:
            raise self._locked_error(owner)
        while self._descriptor is None:
            descriptor = os.open(self.path, _FLAGS, 0o644)
            try:
                if self._lock(descriptor):
                    self._descriptor = descriptor
            finally:
                if self._descriptor is None:
                    os.close(descriptor)

    def _lock(self, descriptor: int) -> bool:
        """Lock an opened file; return False if it was removed meanwhile."""
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise NotRegularFileError(
                f'{self.path} is not a regular file; remove it.'
            )
        supported = True
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise self._locked_error(_read_owner(descriptor)) from None
            if error.errno not in _UNSUPPORTED:
                raise
            supported = False
        try:
            if os.fstat(descriptor).st_ino != os.stat(self.path).st_ino:
                return False
        except FileNotFoundError:
            return False
        owner = _read_owner(descriptor)
        if owner:
            self._take_over(owner, descriptor, supported)
        os.ftruncate(descriptor, 0)
        owner = dict(
            host=socket.gethostname(), pid=os.getpid(), since=time.time()
        )
        os.pwrite(descriptor, json.dumps(owner).encode(), 0)
        _own_locks[str(self.path.absolute())] = owner
        return True

    def _take_over(self, owner: dict, descriptor: int, locked: bool) -> None:
        """Accept the lock of a process that ended without removing it.

        Args:
            owner: The content of the lock file.
            descriptor: The lock file.
            locked: Whether this process has the kernel's lock.

        Raises:
            LockedError: The owner may still be running.
        """
        if owner.get('host') == socket.gethostname():
            running = not locked and _is_other_process(owner.get('pid'))
        else:
            running = self._age(descriptor) < STALE_SECONDS
        if running:
            raise self._locked_error(owner)
        _warn(
            f'{self.path}: the {self.purpose} of process {owner.get("pid")} '
            f'on {owner.get("host")} has ended without removing its lock; '
            'this process takes over the lock.'
        )

    def _age(self, descriptor: int) -> float:
        """Seconds since the last touch, by the clock of the file system."""
        touched = os.fstat(descriptor).st_mtime
        probe = self.path.with_name(f'{self.path.name}.{os.getpid()}.probe')
        probe.touch()
        try:
            return probe.stat().st_mtime - touched
        finally:
            probe.unlink()

    def _locked_error(self, owner: dict) -> LockedError:
        since = owner.get('since')
        if not isinstance(since, (int, float)):  # a damaged lock file
            since = time.time()
        age = max(time.time() - since, 0)
        host = owner.get('host', 'an unknown host')
        message = (
            f'{self.folder} is already in use by another {self.purpose}: '
            f'process {owner.get("pid", "unknown")} on {host}, for '
            f'{age / 60:.0f} minutes; wait until it ends, or give another '
            'folder'
        )
        if host != socket.gethostname():
            message += (
                f' (if it has ended, the lock is free '
                f'{STALE_SECONDS / 60:.0f} minutes later, or after removing '
                f'{self.path})'
            )
        return LockedError(f'{message}.')

    def _touch(self) -> None:
        while not self._released.wait(TOUCH_SECONDS):
            try:
                os.utime(self.path)
            except OSError as error:
                _warn(
                    f'{self.path} cannot be touched ({error.strerror}); '
                    'another process may take over the lock.'
                )


def _read_owner(descriptor: int) -> dict:
    """Return the content of a lock file; empty if it cannot be parsed."""
    try:
        owner = json.loads(os.pread(descriptor, 4096, 0))
    except ValueError:  # empty, or being written
        return {}
    return owner if isinstance(owner, dict) else {}


def _is_other_process(pid: object) -> bool:
    """Whether a value is the id of another running process."""
    return (
        type(pid) is int and pid > 0 and pid != os.getpid() and is_running(pid)
    )


def _warn(text: str) -> None:
    print_log(text, logger='current', level=logging.WARNING)
