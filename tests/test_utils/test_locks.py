# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Locks admit one writer and are free after its process is killed."""

import errno
import fcntl
import json
import multiprocessing
import os
import signal
import socket
import time

import pytest

from minigpt4.utils.locks import (
    STALE_SECONDS,
    FolderLock,
    LockedError,
    lock_file,
)

FORK = multiprocessing.get_context('fork')


@pytest.fixture
def owner(tmp_path):
    """A process that owns the lock of ``tmp_path``."""
    ready = FORK.Event()

    def wait():
        with FolderLock(tmp_path):
            ready.set()
            time.sleep(600)

    process = FORK.Process(target=wait)
    process.start()
    assert ready.wait(300)
    yield process
    process.kill()
    process.join()


def test_second_writer_is_refused(tmp_path, owner):
    with pytest.raises(LockedError) as error, FolderLock(tmp_path):
        pass
    message = str(error.value)
    assert f'{tmp_path} is already in use by another training' in message
    assert f'process {owner.pid} on {socket.gethostname()}' in message


def test_lock_of_a_killed_process_is_free(tmp_path, owner, log):
    os.kill(owner.pid, signal.SIGKILL)
    owner.join()
    with FolderLock(tmp_path):
        assert 'has ended without removing its lock' in log[-1]
        assert str(owner.pid) in log[-1]
    assert os.listdir(tmp_path) == []


def test_lock_file_is_removed_after_an_error(tmp_path):
    with pytest.raises(KeyboardInterrupt), FolderLock(tmp_path / 'new'):
        with pytest.raises(LockedError), FolderLock(tmp_path / 'new'):
            pass
        raise KeyboardInterrupt
    assert os.listdir(tmp_path / 'new') == []
    with FolderLock(tmp_path / 'new'):
        pass


def test_stale_lock_of_another_host_is_taken_over(tmp_path, log):
    lock_file_path = tmp_path / '.training.lock'
    lock_file_path.write_text(
        json.dumps(dict(host='other', pid=1, since=time.time()))
    )
    with pytest.raises(LockedError, match='process 1 on other.*removing'):
        with FolderLock(tmp_path):
            pass
    old = time.time() - STALE_SECONDS - 5
    os.utime(lock_file_path, (old, old))
    with FolderLock(tmp_path):
        assert 'process 1 on other has ended' in log[-1]


def test_damaged_lock_file_is_taken_over(tmp_path):
    (tmp_path / '.training.lock').write_bytes(b'{"host": \0')
    with FolderLock(tmp_path) as lock:
        assert json.loads(lock.path.read_text())['pid'] == os.getpid()


@pytest.mark.timeout(120)
def test_lock_file_that_is_not_regular_is_refused(tmp_path):
    lock = FolderLock(tmp_path)
    other = tmp_path / 'other.txt'
    other.write_text('kept')
    lock.path.symlink_to(other)
    with pytest.raises(ValueError, match='is a symbolic link; remove it'):
        lock.__enter__()
    assert other.read_text() == 'kept'
    lock.path.unlink()
    os.mkfifo(lock.path)
    with pytest.raises(ValueError, match='is not a regular file; remove it'):
        lock.__enter__()


def test_second_lock_of_a_process_fails_and_keeps_the_first(tmp_path):
    def lock(path):
        with open(path, 'r+') as file:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    with FolderLock(tmp_path) as folder_lock:
        with pytest.raises(LockedError), FolderLock(tmp_path):
            pass
        other = FORK.Process(target=lock, args=(folder_lock.path,))
        other.start()
        other.join()
        assert other.exitcode == 1


def test_error_names_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(OSError, match='cannot be written') as error:
        with FolderLock(tmp_path / 'file'):
            pass
    assert error.value.filename == str(tmp_path / 'file')


def test_file_is_locked_until_it_is_closed(tmp_path):
    path = tmp_path / 'a.jsonl'
    with open(path, 'ab') as first, open(path, 'ab') as second:
        assert lock_file(first)
        assert not lock_file(second)
        begin = time.monotonic()
        assert not lock_file(second, 0.2)
        assert time.monotonic() - begin >= 0.2
        first.close()
        assert lock_file(second, 0.2)
    assert os.listdir(tmp_path) == ['a.jsonl']


@pytest.mark.parametrize('code', [errno.ENOLCK, errno.EIO])
def test_file_system_without_locks_is_logged(tmp_path, monkeypatch, log, code):
    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, 'flock', refuse)
    with open(tmp_path / 'a.jsonl', 'ab') as file:
        if code == errno.EIO:
            with pytest.raises(OSError, match='Input/output'):
                lock_file(file)
        else:
            assert lock_file(file)
            assert 'a.jsonl is on a file system without locks' in log[-1]
