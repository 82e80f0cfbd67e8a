# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""One writer for a folder or a file; the lock of a killed process is free.

:class:`FolderLock` is for a folder that runs on several hosts may share. It
is a POSIX record lock on a file of its own, which names host and process for
the error of a second writer. Where the file system does not pass locks on to
other hosts, the age of that file decides: the holder touches it regularly.

:func:`lock_file` is for one file that is written to its end. It locks that
file itself, by ``flock``, so it leaves no other file next to the user's, but
cannot name the holder. The kernel releases both locks when the process ends.
:mod:`~minigpt4.weights.download` waits for another process, with ``filelock``.
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

from .regular_files import NotRegularFileError

TOUCH_SECONDS = 30.0
STALE_SECONDS = 180.0
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
# record locks do not exclude within a process, and closing a second
# descriptor of the file would release them; so this process's own are noted
# a link or a FIFO of that name is refused, and never waited for
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_held: dict[str, dict] = {}


def lock_file(file: IO, seconds: float = 0.0) -> bool:
    """Lock an open file for this process alone, until it is closed.

    A file system without locks is named in a warning; the file then counts
    as locked.

    Args:
        file: The file. A child process that inherits it holds the lock too.
        seconds: How long to wait for another process.

    Returns:
        False where another process still holds the lock.
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
            if error.errno not in _NO_LOCKS:
                raise
            print_log(
                f'{file.name} is on a file system without locks '
                f'({error.strerror}); let no second process write it.',
                logger='current',
                level=logging.WARNING,
            )
            return True
        time.sleep(0.1)


class LockedError(ValueError):
    """Another process writes into the folder."""


class UnwritableFolderError(OSError):
    """The folder cannot be made or written."""


class FolderLock:
    """A context manager: this process alone writes into a folder.

    Args:
        folder: The folder; it is made.
        purpose: What runs there, for the error of a second one.

    Raises:
        LockedError: On entering: another process holds the lock.
        UnwritableFolderError: On entering: the folder cannot be written.
    """

    def __init__(
        self, folder: 'str | Path', purpose: str = 'training'
    ) -> None:
        self.folder = Path(folder)
        self.purpose = purpose
        self.path = self.folder / f'.{purpose}.lock'
        self._file: int | None = None
        self._ended = threading.Event()

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
        self._ended.set()
        if self._file is not None:
            # removed while it is held, so that no other can hold it too
            self.path.unlink(missing_ok=True)
            os.close(self._file)
            self._file = None
        _held.pop(str(self.path.absolute()), None)

    def _acquire(self) -> None:
        note = _held.get(str(self.path.absolute()))
        if note is not None:
            raise self._in_use(note)
        while self._file is None:
            file = os.open(self.path, _FLAGS, 0o644)
            try:
                if self._lock(file):
                    self._file = file
            finally:
                if self._file is None:
                    os.close(file)

    def _lock(self, file: int) -> bool:
        """Lock an opened file; False where it was removed meanwhile."""
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise NotRegularFileError(
                f'{self.path} is not a regular file; remove it.'
            )
        shared = True  # whether locks work here at all
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise self._in_use(_read(file)) from None
            if error.errno not in _NO_LOCKS:
                raise
            shared = False
        try:
            if os.fstat(file).st_ino != os.stat(self.path).st_ino:
                return False
        except FileNotFoundError:
            return False
        note = _read(file)
        if note:
            self._take_over(note, file, shared)
        os.ftruncate(file, 0)
        mine = dict(
            host=socket.gethostname(), pid=os.getpid(), since=time.time()
        )
        os.pwrite(file, json.dumps(mine).encode(), 0)
        _held[str(self.path.absolute())] = mine
        return True

    def _take_over(self, note: dict, file: int, shared: bool) -> None:
        """Take the lock of a process that has ended without removing it.

        Raises:
            LockedError: It may still run.
        """
        own_host = note.get('host') == socket.gethostname()
        if own_host:
            running = not shared and _is_running(note.get('pid'))
        else:
            running = self._age(file) < STALE_SECONDS
        if running:
            raise self._in_use(note)
        print_log(
            f'{self.path}: the {self.purpose} of process {note.get("pid")} '
            f'on {note.get("host")} has ended without removing its lock; it '
            'is taken over.',
            logger='current',
            level=logging.WARNING,
        )

    def _age(self, file: int) -> float:
        """Seconds since the file was touched, by the file system's clock."""
        touched = os.fstat(file).st_mtime
        probe = self.path.with_name(f'{self.path.name}.{os.getpid()}.probe')
        probe.touch()
        try:
            return probe.stat().st_mtime - touched
        finally:
            probe.unlink()

    def _in_use(self, note: dict) -> LockedError:
        since = note.get('since')
        if not isinstance(since, (int, float)):  # a damaged note
            since = time.time()
        age = max(time.time() - since, 0)
        host = note.get('host', 'an unknown host')
        elsewhere = host != socket.gethostname()
        return LockedError(
            f'{self.folder} is already in use by another {self.purpose}: '
            f'process {note.get("pid", "unknown")} on {host}, for '
            f'{age / 60:.0f} minutes; wait for its end, or give another '
            'folder'
            + (
                f' (if it has ended, the lock is free '
                f'{STALE_SECONDS / 60:.0f} minutes later, or after removing '
                f'{self.path}).'
                if elsewhere
                else '.'
            )
        )

    def _touch(self) -> None:
        while not self._ended.wait(TOUCH_SECONDS):
            try:
                os.utime(self.path)
            except OSError as error:
                print_log(
                    f'{self.path} cannot be touched ({error.strerror}); '
                    'another process may take the lock.',
                    logger='current',
                    level=logging.WARNING,
                )


def _read(file: int) -> dict:
    try:
        note = json.loads(os.pread(file, 4096, 0))
    except ValueError:  # empty, or being written
        return {}
    return note if isinstance(note, dict) else {}


def _is_running(pid: object) -> bool:
    if type(pid) is not int or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return pid != os.getpid()
