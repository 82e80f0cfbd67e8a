# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Files are complete with several writers and after a killed writer."""

import errno
import multiprocessing
import os
import signal

import pytest

from minigpt4.utils.atomic import make_folder, replacing, write_atomically

FORK = multiprocessing.get_context('fork')


def write_often(path, letter):
    for _ in range(60):
        write_atomically(path, letter * 300_000)
        data = path.read_bytes()
        assert len(data) == 300_000 and len(set(data)) == 1


def test_concurrent_writers_leave_a_complete_file(tmp_path):
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
    with replacing(path) as temporary:
        temporary.write_bytes(b'half')
        os.kill(os.getpid(), signal.SIGKILL)


def test_temporary_files_of_killed_writers_are_removed(tmp_path):
    writer = FORK.Process(target=die_while_writing, args=(tmp_path / 'x',))
    writer.start()
    writer.join()
    (left,) = os.listdir(tmp_path)
    assert left.endswith('.part')
    of_other_host = tmp_path / '.x.another_host-1-0123abcd.part'
    of_other_host.touch()
    with replacing(tmp_path / 'y') as temporary:
        temporary.touch()
        with replacing(tmp_path / 'x') as second:
            second.touch()
        assert temporary.exists()  # its process is running
    assert set(os.listdir(tmp_path)) == {'x', 'y', of_other_host.name}


def test_failed_write_keeps_the_old_file(tmp_path):
    (tmp_path / 'x').write_bytes(b'old')
    with pytest.raises(KeyError), replacing(tmp_path / 'x') as temporary:
        temporary.write_bytes(b'new')
        raise KeyError
    assert os.listdir(tmp_path) == ['x']
    assert (tmp_path / 'x').read_bytes() == b'old'


def test_file_with_the_longest_name_is_written(tmp_path):
    write_atomically(tmp_path / ('x' * 255), b'1')
    assert os.listdir(tmp_path) == ['x' * 255]


def test_error_names_the_file_where_a_folder_is_expected(tmp_path):
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
def test_full_disk_error_asks_for_free_space(name, tmp_path, monkeypatch):
    number = getattr(errno, name)

    def fail(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, 'fsync', fail)
    with pytest.raises(OSError, match='could not be saved') as error:
        write_atomically(tmp_path / 'x', b'1')
    assert error.value.errno == number
    full = name in ('ENOSPC', 'EDQUOT')
    assert ('free some space' in str(error.value)) is full
