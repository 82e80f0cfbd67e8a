# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Uploaded files: limits per client, checked paths, deletion."""

import time
from pathlib import Path

import pytest

from minigpt4.serving.web import uploads as uploads_module
from minigpt4.serving.web.example_list import EXAMPLES
from minigpt4.serving.web.uploads import UploadError, Uploads


@pytest.fixture
def uploads(tmp_path):
    folder = tmp_path / 'uploads'
    folder.mkdir()
    return Uploads(folder, 4000, 1000, (EXAMPLES,))


def put(uploads, name: str, size: int = 10) -> str:
    path = uploads.folder / name / 'a.png'
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b'x' * size)
    return str(path)


def test_one_client_may_use_a_quarter_of_the_bytes(uploads):
    uploads.add('a', [put(uploads, '1', 900)])
    with pytest.raises(UploadError, match='wait for their questions'):
        with uploads.reserve('a', 101):
            pass
    with uploads.reserve('b', 1000):
        with pytest.raises(UploadError):
            with uploads.reserve('b', 1):
                pass
        with uploads.reserve('c', 1000), uploads.reserve('d', 1000):
            with pytest.raises(UploadError):
                with uploads.reserve('e', 200):
                    pass
    with uploads.reserve('b', 1000):
        pass


def test_used_and_old_files_are_deleted(uploads, monkeypatch):
    used, old, new = (put(uploads, name) for name in '123')
    partial = uploads.folder / 'tmp123'
    partial.write_bytes(b'x')
    uploads.add('a', [used, old])
    uploads.remove(used)
    assert not Path(used).exists()
    now = time.time()
    monkeypatch.setattr(
        uploads_module.time,
        'time',
        lambda: now + uploads_module.UNUSED_SECONDS + 60,
    )
    uploads.add('a', [new])
    uploads.remove_unused()
    assert not Path(old).exists() and not partial.exists()
    assert Path(new).exists()


def test_files_of_the_package_are_not_deleted(tmp_path):
    example = EXAMPLES / 'nano1.png'
    uploads = Uploads(tmp_path, 2**30, 2**24, (EXAMPLES,))
    assert uploads.check(str(example)) == example.resolve()
    uploads.remove(example)
    uploads.remove('/etc/hostname')
    assert example.exists()


def test_large_file_is_refused(uploads):
    with pytest.raises(UploadError, match='at most 1,000'):
        uploads.check(put(uploads, '1', 1001))
