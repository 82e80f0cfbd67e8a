# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Shards are found, read ahead and decompressed."""

import bz2
import gzip
import io
import json
import lzma
import os
import tarfile
import threading
import time

import pytest

from minigpt4.datasets import shard_files
from minigpt4.datasets.shard_files import ShardBytes, find_shards
from minigpt4.datasets.tar_reader import TarReader
from minigpt4.utils.data_manifest import MANIFEST_FORMAT, MANIFEST_VERSION
from minigpt4.utils.time_limit import READ_SECONDS_VARIABLE

DATA = bytes(range(256)) * 40


def read(path, remote=False):
    with ShardBytes(str(path), remote) as data:
        return b''.join(data)


@pytest.mark.parametrize(
    'compress', [bytes, gzip.compress, bz2.compress, lzma.compress]
)
def test_compressed_shard_is_decompressed(tmp_path, compress):
    (tmp_path / 'a.tar').write_bytes(compress(DATA))
    assert read(tmp_path / 'a.tar') == DATA


@pytest.mark.parametrize(
    'compress', [gzip.compress, bz2.compress, lzma.compress]
)
def test_truncated_compressed_shard_is_reported(tmp_path, compress):
    compressed = compress(DATA)
    (tmp_path / 'a.tar').write_bytes(compressed[:-20])
    reports = []
    with ShardBytes(str(tmp_path / 'a.tar')) as data:
        list(TarReader(data, lambda *report: reports.append(report)))
    ((kind, text),) = reports
    assert kind == 'damaged' and 'cannot be read' in text


def test_start_of_a_truncated_compressed_shard_is_read(tmp_path):
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode='w') as file:
        for name, content in (('0.jpg', b'1'), ('1.jpg', os.urandom(9000))):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    data = archive.getvalue()
    compressed = gzip.compress(data)
    (tmp_path / 'a.tar.gz').write_bytes(compressed[: len(compressed) // 2])
    with ShardBytes(str(tmp_path / 'a.tar.gz')) as data:
        assert [n for n, _ in TarReader(data, lambda *_: None)] == ['0.jpg']


def test_unsupported_compression_is_named(tmp_path):
    (tmp_path / 'a.tar').write_bytes(b'(\xb5/\xfd' + bytes(99))
    with pytest.raises(shard_files.ShardReadError, match='with Zstandard; ex'):
        read(tmp_path / 'a.tar')


@pytest.mark.parametrize('kind', ['FIFO', 'character device', 'folder'])
def test_only_regular_files_are_read(tmp_path, kind):
    path = tmp_path / 'a.tar'
    if kind == 'FIFO':
        os.mkfifo(path)
    elif kind == 'folder':
        path.mkdir()
    else:
        path.symlink_to('/dev/zero')
    with pytest.raises(shard_files.ShardReadError, match=f'is a {kind}'):
        read(path)


def test_read_ends_if_the_file_system_does_not_respond(tmp_path, monkeypatch):
    monkeypatch.setenv(READ_SECONDS_VARIABLE, '0.05')
    release = threading.Event()
    monkeypatch.setattr(
        shard_files, 'open_regular', lambda path: release.wait()
    )
    with pytest.raises(shard_files.ShardReadError, match=r'within 0\.05 sec'):
        read(tmp_path / 'a.tar')
    release.set()


def test_thread_ends_if_a_shard_is_not_read_completely(tmp_path):
    (tmp_path / 'a.tar').write_bytes(bytes(9 << 20))
    before = threading.active_count()
    with ShardBytes(str(tmp_path / 'a.tar')) as data:
        next(iter(data))
    for _ in range(6000):
        if threading.active_count() <= before:
            break
        time.sleep(0.01)
    assert threading.active_count() <= before


def test_wildcard_never_matches_a_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = 'pipe:touch ran;.tar'
    (tmp_path / name).write_bytes(DATA)
    for pattern in ('*.tar', [f'{tmp_path}/*.tar']):
        (shard,), remote, missing = find_shards(pattern)
        assert not remote and not missing
        assert read(shard) == DATA
    assert not (tmp_path / 'ran').exists()


def test_command_in_the_config_is_run(tmp_path):
    (tmp_path / 'a.tar').write_bytes(DATA)
    command = f'pipe:cat {tmp_path}/a.tar'
    assert find_shards(command) == ([command], {command}, 0)
    assert read(command, remote=True) == DATA
    url = 'https://host/{0..1}.tar?token=x'
    assert len(find_shards(url)[1]) == 2


@pytest.mark.parametrize(
    'folder', ['set [2024]', 'a[b]c', 'b{1,2}', 'run::2', 'x{y', 'run:1']
)
def test_existing_path_is_not_expanded(tmp_path, folder, monkeypatch):
    """datasets #7468: brackets; webdataset #88: colons."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / folder).mkdir()
    for name in (f'{folder}/0.tar', f'{tmp_path}/{folder}/0.tar'):
        (tmp_path / folder / '0.tar').write_bytes(DATA)
        assert find_shards(name) == ([name], set(), 0)
        assert read(name) == DATA


def test_name_with_a_colon_is_a_file(tmp_path):
    (tmp_path / 'a:b.tar').write_bytes(DATA)
    names = [f'{tmp_path}/a:b.tar', f'file:{tmp_path}/a:b.tar', 'c:none.tar']
    found, remote, missing = find_shards(names)
    assert found == [f'{tmp_path}/a:b.tar'] * 2
    assert not remote and missing == 1


def test_a_manifest_stands_for_the_shards_that_it_lists(tmp_path):
    names = ['web/00000.tar', 'web/00001.tar', 'web/gone.tar']
    (tmp_path / 'web').mkdir()
    for name in (*names[:2], 'web/00002.tar'):
        (tmp_path / name).write_bytes(b'')
    remote = 'https://host/00009.tar'
    manifest = tmp_path / 'check' / 'manifest.json'
    manifest.parent.mkdir()
    content = dict(
        format=MANIFEST_FORMAT,
        version=MANIFEST_VERSION,
        shards=[
            *[dict(shard=f'../{name}', samples=1) for name in names],
            dict(shard=remote, samples=1),
        ],
        files={},
        images={},
    )
    manifest.write_text(json.dumps(content))
    local = [str(tmp_path / name) for name in names[:2]]
    assert find_shards(str(manifest)) == ([*local, remote], {remote}, 1)
    other = str(tmp_path / 'web' / '00002.tar')
    assert find_shards([other, manifest])[0] == [other, *local, remote]
    manifest.write_text('{}')
    with pytest.raises(ValueError, match='is no manifest of data'):
        find_shards(str(manifest))
