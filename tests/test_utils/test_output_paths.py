# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Outputs are checked before the work; messages have the user's path."""

import os
import tempfile
from pathlib import Path

import pytest

from minigpt4.utils import output_paths
from minigpt4.utils.atomic import make_folder, replacing, write_atomically
from minigpt4.utils.errors import describe
from minigpt4.utils.output_paths import check_output_file, check_output_folder

no_proc = pytest.mark.skipif(
    not Path('/proc/self').exists(), reason='the system has no /proc'
)


def test_new_and_existing_outputs_are_accepted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'old').write_text('a')
    (tmp_path / 'link').symlink_to('old')
    for path in ('new', 'a/b/new', 'old', 'link', tmp_path / 'new'):
        check_output_file(path)
    for path in ('new', 'a/b/new', '.', tmp_path):
        check_output_folder(path)
    assert sorted(os.listdir(tmp_path)) == ['link', 'old']


@pytest.mark.parametrize('check', [check_output_file, check_output_folder])
@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('broken', 'broken is a symbolic link to nowhere, which does not'),
        ('broken/a', 'broken is a symbolic link to nowhere, which does not'),
        ('file/a', 'file is a file, but a folder is expected'),
        ('x' * 256, 'its name is longer than 255 bytes'),
    ],
)
def test_what_cannot_be_written_is_named(tmp_path, check, name, message):
    (tmp_path / 'broken').symlink_to('nowhere')
    (tmp_path / 'file').touch()
    with pytest.raises((OSError, ValueError), match=message):
        check(tmp_path / name)


def test_a_file_is_no_folder_and_a_device_is_no_file(tmp_path):
    (tmp_path / 'file').touch()
    os.mkfifo(tmp_path / 'fifo')
    with pytest.raises(ValueError, match='is a folder; give the name of a fi'):
        check_output_file(tmp_path)
    with pytest.raises(ValueError, match='fifo is a device or another spec'):
        check_output_file(tmp_path / 'fifo')
    with pytest.raises(ValueError, match='/dev/null is a device'):
        check_output_file('/dev/null')
    with pytest.raises(NotADirectoryError, match='but a folder is expected'):
        check_output_folder(tmp_path / 'file')


def test_a_folder_that_takes_no_files_is_named(tmp_path, monkeypatch):
    """The user may be root, whom no permission stops."""

    def refuse(dir):
        raise PermissionError(13, 'Permission denied', f'{dir}/tmpabc')

    monkeypatch.setattr(output_paths.tempfile, 'TemporaryFile', refuse)
    expected = (
        f'{tmp_path}/a/b.html cannot be written: no file can be created in '
        f'{tmp_path} (Permission denied); give another name.'
    )
    with pytest.raises(OSError) as error:
        check_output_file(tmp_path / 'a' / 'b.html')
    assert describe(error.value) == expected
    with pytest.raises(OSError) as error:
        check_output_folder(tmp_path)
    assert 'no file can be created there (Perm' in describe(error.value)
    assert tempfile.TemporaryFile is refuse  # it is what was called


@no_proc
@pytest.mark.parametrize(
    'write',
    [
        check_output_file,
        check_output_folder,
        make_folder,
        lambda path: write_atomically(path, b'a'),
        lambda path: write_atomically(f'{path}/a/b', b'a'),
    ],
)
def test_no_temporary_name_is_in_the_message(write):
    with pytest.raises(OSError) as error:
        write('/proc/result')
    message = describe(error.value)
    assert message.startswith('/proc/result')
    assert 'cannot be written' in message and '/proc (' in message
    assert '.part' not in message and 'does not exist' not in message


def test_another_error_has_the_path_of_the_user(tmp_path):
    with (
        pytest.raises(OSError) as error,
        replacing(tmp_path / 'a') as temporary,
    ):
        temporary.mkdir()
        open(temporary, 'w')
    assert describe(error.value) == f'{tmp_path}/a: Is a directory'


def test_a_link_to_nothing_is_no_file(tmp_path):
    (tmp_path / 'link').symlink_to('nowhere')
    with pytest.raises(NotADirectoryError, match='a symbolic link to nowhere'):
        make_folder(tmp_path / 'link' / 'a')
