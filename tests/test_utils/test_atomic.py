# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Files are whole, also with several writers and after a killed one."""

import errno
import multiprocessing
import os
import signal

import pytest

from minigpt4.utils import atomic
from minigpt4.utils.atomic import make_folder, replacing, write_atomically

FORK = multiprocessing.get_context('fork')


def write_often(path, letter):
    for _ in range(60):
        write_atomically(path, letter * 300_000)
        data = path.read_bytes()
        assert len(data) == 300_000 and len(set(data)) == 1


def test_two_writers_never_tear_a_file(tmp_path):
    writers = [
        FORK.Process(target=write_often, args=(tmp_path / 'x', letter))
        for letter in (b'a', b'b')
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert os.listdir(tmp_path) == ['x']


def die_while_writing(path):
    with replacing(path) as part:
        part.write_bytes(b'half')
        os.kill(os.getpid(), signal.SIGKILL)


def test_temporary_files_of_killed_writers_are_removed(tmp_path, monkeypatch):
    writer = FORK.Process(target=die_while_writing, args=(tmp_path / 'x',))
    writer.start()
    writer.join()
    (left,) = os.listdir(tmp_path)
    assert left.endswith('.part')
    foreign = tmp_path / '.x.another_host-1-0123abcd.part'
    foreign.touch()
    monkeypatch.setattr(atomic, '_cleaned', set())
    with replacing(tmp_path / 'y') as part:
        part.touch()
        with replacing(tmp_path / 'x') as other:  # of a running process
            other.touch()
        assert part.exists()
    assert set(os.listdir(tmp_path)) == {'x', 'y', foreign.name}


def test_a_failed_write_changes_nothing(tmp_path):
    (tmp_path / 'x').write_bytes(b'old')
    with pytest.raises(KeyError), replacing(tmp_path / 'x') as part:
        part.write_bytes(b'new')
        raise KeyError
    assert os.listdir(tmp_path) == ['x']
    assert (tmp_path / 'x').read_bytes() == b'old'


def test_the_longest_names_can_be_written(tmp_path):
    write_atomically(tmp_path / ('x' * 255), b'1')
    assert os.listdir(tmp_path) == ['x' * 255]


def test_a_file_where_a_folder_is_needed_is_named(tmp_path):
    (tmp_path / 'x').touch()
    for path in (tmp_path / 'x/y', tmp_path / 'x/y/z'):
        with pytest.raises(NotADirectoryError) as error:
            with replacing(path):
                pass
        assert str(error.value).startswith(f'{tmp_path / "x"} is a file, but')
    for folder in (tmp_path / 'x', tmp_path / 'x/y'):
        with pytest.raises(NotADirectoryError, match='give another name'):
            make_folder(folder)
    make_folder(tmp_path / 'a/b')
    make_folder(tmp_path / 'a/b')
    assert (tmp_path / 'a/b').is_dir()


@pytest.mark.parametrize('name', ['ENOSPC', 'EDQUOT', 'EROFS', 'EIO'])
def test_space_is_asked_for_where_there_is_none(name, tmp_path, monkeypatch):
    number = getattr(errno, name)

    def fail(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, 'fsync', fail)
    with pytest.raises(OSError, match='could not be saved') as error:
        write_atomically(tmp_path / 'x', b'1')
    assert error.value.errno == number
    full = name in ('ENOSPC', 'EDQUOT')
    assert ('free some space' in str(error.value)) is full
