# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Only regular files are opened."""

import os
import socket

import pytest

from minigpt4.utils.regular_files import (
    NotRegularFileError,
    open_regular,
    read_regular,
)


def test_regular_file_is_read_also_through_a_link(tmp_path):
    (tmp_path / 'a').write_bytes(b'content')
    (tmp_path / 'b').symlink_to('a')
    assert read_regular(tmp_path / 'a') == b'content'
    assert read_regular(str(tmp_path / 'b')) == b'content'


@pytest.mark.timeout(120)
def test_files_that_may_block_or_never_end_are_refused(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / 'fifo')
    (tmp_path / 'zero').symlink_to('/dev/zero')
    (tmp_path / 'folder').mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(tmp_path)  # a path of a socket is at most 107 bytes
        server.bind('socket')
    for name, kind in (
        ('fifo', 'a FIFO'),
        ('zero', 'a character device'),
        ('folder', 'a folder'),
        ('socket', 'a socket'),
    ):
        with pytest.raises(NotRegularFileError, match=f'{name} is {kind}'):
            open_regular(tmp_path / name)


def test_missing_file_is_a_file_not_found_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / 'none')
