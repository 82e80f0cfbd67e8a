# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Downloads are resumed, checked, taken from mirrors and cached."""

import errno
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.progress import Progress
from tests.file_server import DATA, HASHED, SHA256, Handler, files_in

from minigpt4.utils.signals import StopSignal
from minigpt4.weights import download
from minigpt4.weights import http_download as transfer
from minigpt4.weights.download import download_file, read_record


def test_file_and_record_are_written(file_server, cache):
    path = download_file(f'{file_server.url}/a.pth')
    assert path == cache / 'a.pth' and path.read_bytes() == DATA
    assert files_in(cache) == {'a.pth', 'a.pth.json'}
    record = json.loads((cache / 'a.pth.json').read_text())
    assert record['sha256'] == SHA256 and record['size'] == len(DATA)
    assert record['url'] == f'{file_server.url}/a.pth'
    assert record['checked'] == 'size only: no published hash'


def test_downloaded_file_is_not_requested_read_or_locked_again(
    file_server, monkeypatch, cache
):
    path = download_file(f'{file_server.url}/a.pth')
    before = {f.name: f.stat().st_mtime_ns for f in cache.iterdir()}
    monkeypatch.setattr(hashlib, 'sha256', pytest.fail)  # not read
    assert download_file(f'{file_server.url}/a.pth') == path
    assert (
        download_file(f'{file_server.url}/a.pth', sha256=SHA256.upper())
        == path
    )
    assert len(file_server.requests) == 1
    after = {f.name: f.stat().st_mtime_ns for f in cache.iterdir()}
    assert before == after  # not even a lock file


def test_changed_file_is_checked_and_downloaded_again(file_server, cache):
    path = download_file(f'{file_server.url}/{HASHED}')
    path.write_bytes(DATA[:-1] + b'x')
    assert download_file(f'{file_server.url}/{HASHED}').read_bytes() == DATA
    assert (cache / f'{HASHED}.wrong').stat().st_size == len(DATA)


def test_broken_connection_is_resumed(file_server):
    file_server.cuts = [100_000, 50_000]
    assert download_file(f'{file_server.url}/a.pth').read_bytes() == DATA
    assert [r for _, r in file_server.requests] == [
        *(None, 'bytes=100000-', 'bytes=150000-')
    ]


def test_broken_range_of_unknown_length_is_resumed(file_server):
    file_server.cuts, file_server.lengths = [100_000, 50_000], False
    assert download_file(f'{file_server.url}/a.pth').read_bytes() == DATA
    assert file_server.requests[-1] == ('a.pth', 'bytes=150000-')


def test_failed_download_is_resumed_by_the_next_call(file_server, cache):
    file_server.cuts = [100_000, 0, 0, 0]
    with pytest.raises(ConnectionError, match='cut off at 100,000 of 300,000'):
        download_file(f'{file_server.url}/a.pth')
    assert files_in(cache) == {'a.pth.part', 'a.pth.part.json'}
    assert download_file(f'{file_server.url}/a.pth').read_bytes() == DATA
    assert file_server.requests[-1] == ('a.pth', 'bytes=100000-')


def test_retries_are_counted_from_the_last_new_byte(file_server):
    file_server.cuts = [20_000] * 10
    assert download_file(f'{file_server.url}/a.pth').read_bytes() == DATA


def test_server_without_ranges_restarts_the_download(file_server):
    file_server.ranges, file_server.cuts = False, [100_000]
    assert download_file(f'{file_server.url}/a.pth').read_bytes() == DATA


def test_changed_file_is_not_appended_to_the_old_part(file_server):
    file_server.cuts = [100_000, 0, 0, 0]
    with pytest.raises(ConnectionError):
        download_file(f'{file_server.url}/a.pth')
    file_server.data, file_server.etag = DATA[::-1], '"two"'
    assert download_file(f'{file_server.url}/a.pth').read_bytes() == DATA[::-1]
    assert len(file_server.requests) == 4 + 1  # If-Range: one request


def test_changed_file_of_a_server_without_if_range(file_server, monkeypatch):
    file_server.cuts = [100_000, 0, 0, 0]
    with pytest.raises(ConnectionError):
        download_file(f'{file_server.url}/a.pth')
    file_server.data, file_server.etag = DATA[::-1], '"two"'
    get = Handler.do_GET

    def ignore(self):
        del self.headers['If-Range']
        get(self)

    monkeypatch.setattr(Handler, 'do_GET', ignore)
    assert download_file(f'{file_server.url}/a.pth').read_bytes() == DATA[::-1]


@pytest.mark.parametrize('known_size', [300_000, 500_000])
def test_part_longer_than_the_file_is_deleted(file_server, cache, known_size):
    cache.mkdir()
    (cache / 'a.pth.part').write_bytes(bytes(400_000))
    (cache / 'a.pth.part.json').write_text(
        json.dumps(
            dict(
                url=f'{file_server.url}/a.pth',
                version='"one"',
                size=known_size,
            )
        )
    )
    assert download_file(f'{file_server.url}/a.pth').read_bytes() == DATA


def test_busy_server_is_retried(file_server):
    file_server.statuses = [503, 429]
    assert download_file(f'{file_server.url}/a.pth').read_bytes() == DATA


def test_stalled_connection_is_closed_and_resumed(file_server, monkeypatch):
    monkeypatch.setattr(transfer, 'TIMEOUT', 1.0)
    file_server.cuts, file_server.stall = [100_000], 300.0
    start = time.monotonic()
    assert download_file(f'{file_server.url}/a.pth').read_bytes() == DATA
    assert file_server.requests[-1] == ('a.pth', 'bytes=100000-')
    assert time.monotonic() - start < 100


@pytest.mark.parametrize('sha256', [None, '0' * 64])
def test_file_with_another_hash_is_refused(file_server, cache, sha256):
    file_server.data = DATA if sha256 else DATA[:-1]
    with pytest.raises(ConnectionError) as caught:
        download_file(f'{file_server.url}/{HASHED}', sha256=sha256)
    expected = sha256 or SHA256[:8]
    assert f'expected {expected}' in str(caught.value)
    assert 'another file: its SHA-256 begins with' in str(caught.value)
    assert not files_in(cache)


@pytest.mark.parametrize(
    'kind, page',
    [
        ('text/html; charset=utf-8', b'Please sign in.'),
        ('binary/x', b'\n<!DOCTYPE html><html>Please sign in.</html>'),
    ],
)
def test_web_page_is_refused(file_server, cache, kind, page):
    file_server.data, file_server.kind = page, kind
    with pytest.raises(ConnectionError, match='a web page'):
        download_file(f'{file_server.url}/a.pth')
    assert not files_in(cache)


def test_git_lfs_pointer_is_refused(file_server, cache):
    file_server.data = b'version https://git-lfs.github.com/spec/v1\noid 0\n'
    with pytest.raises(ConnectionError, match='a Git LFS pointer instead'):
        download_file(f'{file_server.url}/a.pth')
    assert not files_in(cache)


def test_mirrors_are_tried_before_the_url(file_server, monkeypatch):
    file_server.statuses = [404, 403]
    mirror = file_server.url.replace('released', 'mirror')
    monkeypatch.setenv('MINIGPT4_MIRROR', f'{mirror}/, {mirror}/deep')
    path = download_file(f'{file_server.url}/a.pth?token=secret')
    assert path.read_bytes() == DATA and path.name == 'a.pth'
    names = [name for name, _ in file_server.requests]
    assert names == ['a.pth', 'a.pth', 'a.pth?token=secret']


def test_folder_is_a_mirror_in_offline_mode(
    file_server, tmp_path, monkeypatch, cache
):
    (tmp_path / 'my mirror').mkdir()
    (tmp_path / 'my mirror' / HASHED).write_bytes(DATA)
    monkeypatch.setenv('MINIGPT4_MIRROR', str(tmp_path / 'my mirror'))
    monkeypatch.setenv('MINIGPT4_OFFLINE', '1')
    assert download_file(f'{file_server.url}/{HASHED}').read_bytes() == DATA
    assert not file_server.requests
    assert read_record(cache / HASHED)['downloaded_from'].startswith('file:')


def test_mirrors_argument(file_server, tmp_path):
    (tmp_path / 'a.pth').write_bytes(DATA)
    other = tmp_path / 'other'
    path = download_file(
        f'{file_server.url}/a.pth', folder=other, mirrors=[str(tmp_path)]
    )
    assert path == other / 'a.pth' and not file_server.requests


def test_wrong_file_of_a_mirror_is_skipped(file_server, tmp_path, monkeypatch):
    (tmp_path / HASHED).write_bytes(b'something else')
    monkeypatch.setenv('MINIGPT4_MIRROR', str(tmp_path))
    assert download_file(f'{file_server.url}/{HASHED}').read_bytes() == DATA


def test_error_names_every_url_with_its_reason(
    file_server, tmp_path, monkeypatch, cache
):
    file_server.statuses = [404]
    monkeypatch.setenv('MINIGPT4_MIRROR', str(tmp_path))
    with pytest.raises(ConnectionError) as caught:
        download_file(f'{file_server.url}/a.pth?token=secret')
    assert str(caught.value) == (
        f'a.pth could not be downloaded ({tmp_path}/a.pth: No such file or '
        f'directory; {file_server.url}/a.pth: HTTP 404 Not Found); get it '
        f'some other way and put it at {cache}/a.pth, or name a folder or URL '
        'that has it in MINIGPT4_MIRROR.'
    )


def test_refused_connection_is_retried(cache):
    with pytest.raises(ConnectionError, match='Connection refused, 4 times'):
        download_file('http://127.0.0.1:9/a.pth')


@pytest.mark.parametrize('variable', ['MINIGPT4_OFFLINE', 'HF_HUB_OFFLINE'])
def test_offline_mode_makes_no_request(
    file_server, monkeypatch, cache, variable
):
    monkeypatch.setenv(variable, '1')
    with pytest.raises(ConnectionError) as caught:
        download_file(f'{file_server.url}/a.pth')
    assert f'put it at {cache}/a.pth' in str(caught.value)
    assert not file_server.requests
    (cache / 'a.pth').write_bytes(DATA)  # as the sentence says
    assert download_file(f'{file_server.url}/a.pth').read_bytes() == DATA
    record = read_record(cache / 'a.pth')
    assert record['downloaded_from'] == 'found in the folder'
    assert record['checked'] == 'nothing: no published hash'


def test_wrong_file_in_the_cache_is_renamed(file_server, cache):
    cache.mkdir()
    (cache / HASHED).write_bytes(b'half of it')
    assert download_file(f'{file_server.url}/{HASHED}').read_bytes() == DATA
    assert (cache / f'{HASHED}.wrong').read_bytes() == b'half of it'


def test_two_urls_with_the_same_name_are_not_confused(file_server):
    download_file(f'{file_server.url}/a.pth')
    match = 'was downloaded from .*/released/'
    with pytest.raises(FileExistsError, match=match):
        download_file(f'{file_server.url}/other/a.pth')
    download_file(f'{file_server.url}/{HASHED}')
    download_file(f'{file_server.url}/other/{HASHED}')  # same hash


def test_missing_disk_space_is_reported_before_the_download(
    file_server, monkeypatch
):
    usage = shutil.disk_usage('.')._replace(free=1000)
    monkeypatch.setattr(shutil, 'disk_usage', lambda _: usage)
    with pytest.raises(OSError, match='300.0 kB needed, 1.0 kB free') as error:
        download_file(f'{file_server.url}/a.pth')
    assert error.value.errno == errno.ENOSPC
    assert len(file_server.requests) == 1


def test_full_disk_keeps_the_part(file_server):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match='no space for a.pth') as error:
            download_file(f'{file_server.url}/a.pth')
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert 'what has arrived is kept' in str(error.value)
    assert download_file(f'{file_server.url}/a.pth').read_bytes() == DATA
    assert file_server.requests[-1] == ('a.pth', 'bytes=1000-')


def test_stopped_download_keeps_the_part(file_server, monkeypatch, cache):
    def stop(*_):
        raise StopSignal(15)

    file_server.cuts = [1000]
    with monkeypatch.context() as patch:
        patch.setattr(Progress, 'advance', stop)  # called for each chunk
        with pytest.raises(StopSignal):
            download_file(f'{file_server.url}/a.pth')
    assert files_in(cache) == {'a.pth.part', 'a.pth.part.json'}
    assert download_file(f'{file_server.url}/a.pth').read_bytes() == DATA
    assert file_server.requests[-1] == ('a.pth', 'bytes=1000-')


def test_part_of_version_0_1_is_resumed(file_server, cache):
    url = f'{file_server.url}/a.pth'
    cache.mkdir()
    (cache / 'a.pth.part').write_bytes(DATA[:1000])
    info = dict(place=url, version='"one"', size=len(DATA))
    (cache / 'a.pth.part.json').write_text(json.dumps(info))
    assert download_file(url).read_bytes() == DATA
    assert file_server.requests == [('a.pth', 'bytes=1000-')]


def test_fifo_of_a_mirror_is_skipped(file_server, tmp_path):
    os.mkfifo(tmp_path / 'a.pth')
    found = download_file(f'{file_server.url}/a.pth', mirrors=[str(tmp_path)])
    assert found.read_bytes() == DATA


def test_read_only_cache_is_reported(file_server, monkeypatch):
    def forbidden(*_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, 'mkdir', forbidden)
    with pytest.raises(PermissionError, match='another folder in MINIGPT4_CA'):
        download_file(f'{file_server.url}/a.pth')


@pytest.mark.parametrize('url', ['a.pth', 'ftp://host/a.pth', 'http://host/'])
def test_url_of_no_file_is_refused(cache, url):
    with pytest.raises(ValueError, match='no http or https address'):
        download_file(url)


def test_invalid_hash_is_refused(file_server):
    with pytest.raises(ValueError, match='sha256:.* is no SHA-256; give'):
        download_file(f'{file_server.url}/a.pth', sha256=f'sha256:{SHA256}')
    assert not file_server.requests


def test_escaped_name(file_server, cache):
    url = f'{file_server.url}/my%20file.pth'
    assert download_file(url) == cache / 'my file.pth'


def test_date_in_a_name_is_not_a_hash():
    assert download.expected_hash('http://h/model-20230615.pth') is None
    assert download.expected_hash(f'http://h/{HASHED}?a=b') == SHA256[:8]


def test_cache_folder(cache, monkeypatch):
    assert download.cache_folder() == cache
    monkeypatch.delenv('MINIGPT4_CACHE')
    monkeypatch.setenv('XDG_CACHE_HOME', '/xdg')
    assert download.cache_folder() == Path('/xdg/minigpt4')
    monkeypatch.delenv('XDG_CACHE_HOME')
    monkeypatch.setenv('HOME', '/here')
    assert download.cache_folder() == Path('/here/.cache/minigpt4')


DOWNLOAD = """
import sys, types
package = types.ModuleType('minigpt4')  # this module alone starts faster
package.__path__ = [sys.argv[1]]
log = types.SimpleNamespace(print_log=lambda line, **_: print(line))
sys.modules |= {'minigpt4': package, 'mmengine.logging': log}
sys.modules['mmengine'] = types.ModuleType('mmengine')
from minigpt4.weights.download import download_file
print(download_file(sys.argv[2]))
"""


def test_concurrent_processes_download_once(file_server, cache):
    file_server.cuts, file_server.stall = [100_000], 0.5
    command = [
        *(sys.executable, '-c', DOWNLOAD),
        *(
            str(Path(download.__file__).parents[1]),
            f'{file_server.url}/{HASHED}',
        ),
    ]
    runs = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for run in runs:
        assert run.communicate()[0].splitlines()[-1] == str(cache / HASHED)
        assert run.returncode == 0
    assert (cache / HASHED).read_bytes() == DATA
    assert [r for _, r in file_server.requests] == [None, 'bytes=100000-']


def test_name_of_version_0_1_warns():
    with pytest.warns(DeprecationWarning, match='use .*download_file'):
        assert download.fetch is download_file
