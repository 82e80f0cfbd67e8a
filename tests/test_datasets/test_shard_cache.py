# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Copies of remote shards: used, limited in size, never incomplete."""

import gzip
import os
import socket
import subprocess
import time

import pytest
from tests.shard_server import ShardServer

from minigpt4.datasets.shard_cache import ShardCache
from minigpt4.datasets.shard_files import LostShardError, ShardBytes
from minigpt4.datasets.shard_source import Source
from minigpt4.utils.time_limit import READ_SECONDS_VARIABLE

SIZE = 300_000


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.delenv('http_proxy', raising=False)
    folder = tmp_path / 'served'
    folder.mkdir()
    for name in 'abcde':
        (folder / f'{name}.tar').write_bytes(name.encode() * SIZE)
    with ShardServer(folder) as running:
        yield running


@pytest.fixture
def folder(tmp_path):
    return tmp_path / 'cache'


def read(server, name, cache):
    with ShardBytes(f'{server.url}/x/{name}', True, cache) as data:
        content = b''.join(data)
        data.settle_copy(is_intact=True)
        return content


def copies(folder):
    return sorted(folder.glob('*.shard'))


def names(server):
    return ''.join(path.rpartition('/')[2][0] for path, _ in server.requests)


def test_second_read_needs_no_server(server, folder):
    cache = ShardCache(folder, 10 * SIZE)
    for _ in range(2):
        assert read(server, 'a.tar', cache) == b'a' * SIZE
    assert read(server, 'a.tar', ShardCache(folder, SIZE)) == b'a' * SIZE
    assert names(server) == 'a'
    assert [path.stat().st_size for path in copies(folder)] == [SIZE]
    assert {path.suffix for path in folder.iterdir()} == {'.shard', ''}


def test_compressed_shard_is_copied_as_it_is(server, folder):
    data = gzip.compress(b'x' * SIZE)
    (server.folder / 'z.tar.gz').write_bytes(data)
    cache = ShardCache(folder, 10 * SIZE)
    for _ in range(2):
        assert read(server, 'z.tar.gz', cache) == b'x' * SIZE
    assert names(server) == 'z'
    assert copies(folder)[0].read_bytes() == data


def test_unneeded_shards_used_longest_ago_are_deleted(server, folder):
    cache = ShardCache(folder, 3.5 * SIZE)
    for age, name in enumerate('abc'):
        read(server, f'{name}.tar', cache)
        (new,) = (p for p in copies(folder) if p.stat().st_mtime > 1e9)
        os.utime(new, (age, age))
    read(server, 'a.tar', cache)  # used now
    read(server, 'd.tar', cache)
    assert len(copies(folder)) == 3
    for name in 'acd':
        read(server, f'{name}.tar', cache)
    assert names(server) == 'abcd'
    read(server, 'b.tar', cache)
    assert names(server) == 'abcdb'


def test_copies_that_fit_save_their_share_in_each_pass(server, folder):
    urls = [f'{server.url}/x/{name}.tar' for name in 'abcde']
    read(server, 'e.tar', ShardCache(folder, 10 * SIZE))  # of other data
    for order in ('abcd', 'abcd', 'dcba', 'badc'):
        cache = ShardCache(folder, 3.5 * SIZE)
        cache.add_needed(urls[:4])
        for name in order:
            read(server, f'{name}.tar', cache)
    assert names(server) == 'e' + 'abcd' + 'ddd'
    assert len(copies(folder)) == 3


def test_source_keeps_its_copies(server, folder, write_shard):
    cache = ShardCache(folder, 25_000)
    for name in 'abcde':
        write_shard(server.folder / f'{name}.tar', [name])  # of 10,240 bytes
    source = Source(
        'a',
        f'{server.url}/x/{{a..e}}.tar',
        1,
        seed=0,
        shuffle=0,
        cache=cache,
    )
    for _ in range(3):
        for shard in source.shards:
            assert len(list(source.samples_of(shard))) == 1
    assert names(server) == 'abcde' + 'cde' * 2


@pytest.mark.parametrize('known', [True, False])
def test_shard_without_room_is_reported_once(server, folder, known, log):
    cache = ShardCache(folder, 1)
    for name in 'ab':
        url = f'{server.url}/x/{name}.tar'
        shard = url if known else f'pipe:cat {server.folder}/{name}.tar'
        cache.add_needed([shard])
        with ShardBytes(shard, True, cache) as data:
            assert b''.join(data) == name.encode() * SIZE
            data.settle_copy(is_intact=True)
    (message,) = [line for line in log if 'no room' in line]
    assert 'a.tar: its limit is 1e-09 GB (cache_gb)' in message
    assert not copies(folder) and not [*folder.glob('*.part')]


def test_limit_counts_shards_that_are_being_copied(server, folder):
    cache = ShardCache(folder, 2.5 * SIZE)
    open_shards = []
    for name in 'abcd':
        data = ShardBytes(f'{server.url}/x/{name}.tar', True, cache)
        data.__enter__()
        assert next(iter(data))
        open_shards.append(data)
    parts = [*folder.glob('*.part')]
    assert sum(p.stat().st_size for p in (*parts, *copies(folder))) <= (
        2.5 * SIZE
    )
    for data in open_shards:
        assert data.shard.split('/')[-1][0].encode() in b''.join(data)
        data.settle_copy(is_intact=True)
        data.__exit__()
    assert len(copies(folder)) <= 2


def test_shard_above_the_limit_is_read_without_a_copy(server, folder):
    cache = ShardCache(folder, SIZE / 2)
    assert read(server, 'a.tar', cache) == b'a' * SIZE
    assert not copies(folder)


def test_command_of_unknown_size_is_limited_too(server, folder):
    cache = ShardCache(folder, 1.5 * SIZE)
    for name in 'ab':
        command = f'pipe:cat {server.folder}/{name}.tar'
        with ShardBytes(command, True, cache) as data:
            assert b''.join(data) == name.encode() * SIZE
            data.settle_copy(is_intact=True)
    assert len(copies(folder)) == 1


def test_incomplete_copy_is_never_used(server, folder, monkeypatch):
    monkeypatch.setenv(READ_SECONDS_VARIABLE, '1')
    cache = ShardCache(folder, 10 * SIZE)
    server.cut['a.tar'] = [1000] * 99
    server.has_ranges = False
    with pytest.raises(LostShardError):
        read(server, 'a.tar', cache)
    for _ in range(3000):
        if not [*folder.glob('*.part')]:
            break
        time.sleep(0.02)
    assert not [*folder.glob('*.part')] and not copies(folder)
    server.cut.clear()
    monkeypatch.delenv(READ_SECONDS_VARIABLE)
    assert read(server, 'a.tar', cache) == b'a' * SIZE
    assert len(copies(folder)) == 1


def test_part_of_a_killed_process_is_removed_later(server, folder):
    cache = ShardCache(folder, 10 * SIZE)
    old, new = folder / 'x-1.part', folder / 'x-2.part'
    old.write_bytes(b'x')
    new.write_bytes(b'x')
    os.utime(old, (1, 1))
    read(server, 'a.tar', cache)
    assert not old.exists() and new.exists()


def test_part_of_an_ended_process_is_removed(server, folder):
    cache = ShardCache(folder, 10 * SIZE)
    with ShardBytes(f'{server.url}/x/a.tar', True, cache) as data:
        assert next(iter(data))
        (own,) = folder.glob('*.part')
        ended = subprocess.Popen(['true'])
        ended.wait()
        parts = {
            pid: own.with_name(
                own.name.replace(f'-{os.getpid()}-', f'-{pid}-')
            )
            for pid in (ended.pid, os.getppid())
        }
        other_host = own.with_name(
            parts[ended.pid].name.replace(socket.gethostname(), 'another-host')
        )
        for part in (*parts.values(), other_host):
            part.write_bytes(b'x')
        read(server, 'b.tar', cache)
        assert own.exists() and parts[os.getppid()].exists()
        assert other_host.exists() and not parts[ended.pid].exists()


def test_folder_that_cannot_be_written_is_reported_once(
    server, folder, monkeypatch, log
):
    def full(*_):
        raise OSError(28, 'No space left on device')

    cache = ShardCache(folder, 10 * SIZE)
    monkeypatch.setattr(os, 'replace', full)
    for name in 'ab':
        assert read(server, f'{name}.tar', cache) == name.encode() * SIZE
    assert len([line for line in log if 'No space left' in line]) == 1
    assert not copies(folder) and not [*folder.glob('*.part')]


@pytest.mark.parametrize('size', [0, -1, float('nan')])
def test_limit_must_be_above_zero(folder, size):
    with pytest.raises(ValueError, match='expected a number above 0'):
        ShardCache(folder, size)


def samples(shard, cache):
    """The captions that a source reads of a shard."""
    source = Source('a', [shard], 1, seed=0, shuffle=0, cache=cache)
    return [files['__key__'] for files in source.samples_of(shard)]


def test_commands_need_no_setting_of_new_webdataset(
    tmp_path, monkeypatch, write_shard
):
    """Version 0.2.111 and older do not have it."""
    monkeypatch.delattr('webdataset.utils.enforce_security', raising=False)
    write_shard(tmp_path / 's.tar', ['one', 'two'])
    assert len(samples(f'pipe:cat {tmp_path}/s.tar', None)) == 2


def half(data):
    return data[: len(data) // 2]


@pytest.mark.parametrize(
    'spoil',
    [
        lambda data: b'<html><body>busy</body></html>',
        half,
        lambda data: data[:1024],
        lambda data: gzip.compress(half(data)),
        lambda data: half(gzip.compress(data)),
        lambda data: gzip.compress(data)[:-4],
        lambda data: b'',
    ],
)
def test_damaged_download_is_not_kept(server, folder, spoil, write_shard):
    path = server.folder / 's.tar'
    write_shard(path, ['one', 'two', 'three'])
    whole = path.read_bytes()
    cache = ShardCache(folder, 1e9)
    shard = f'pipe:cat {path}'  # a stream of unknown length
    path.write_bytes(spoil(whole))
    samples(shard, cache)
    assert not copies(folder) and not [*folder.glob('*.part')]
    for data in (whole, spoil(whole)):  # the second is not read
        path.write_bytes(data)
        assert len(samples(shard, cache)) == 3
    assert len(copies(folder)) == 1


def test_damaged_copy_is_deleted_and_fetched_again(
    server, folder, write_shard
):
    write_shard(server.folder / 's.tar', ['one', 'two', 'three'])
    cache = ShardCache(folder, 1e9)
    shard = f'{server.url}/x/s.tar'
    assert len(samples(shard, cache)) == 3
    (copy,) = copies(folder)
    whole = copy.read_bytes()
    copy.write_bytes(b'<html>busy</html>')
    assert samples(shard, cache) == [] and not copies(folder)
    assert len(samples(shard, cache)) == 3
    assert copies(folder)[0].read_bytes() == whole
    assert names(server) == 'ss'


def test_shard_that_is_not_read_to_its_end_is_not_kept(
    server, folder, write_shard
):
    write_shard(server.folder / 's.tar', ['one', 'two', 'three'])
    shard = f'{server.url}/x/s.tar'
    source = Source(
        'a', [shard], 1, seed=0, shuffle=0, cache=ShardCache(folder, 1e9)
    )
    stream = source.samples_of(shard)
    next(stream)
    stream.close()
    assert not copies(folder)


@pytest.mark.parametrize('name', ['copy', 'folder'])
def test_cache_of_another_user_is_reported_once(
    server, folder, name, monkeypatch, log
):
    cache = ShardCache(folder, 10 * SIZE)
    opened = open

    def refused(path, *args, **kwargs):
        if name == 'folder' or str(path).endswith('.shard'):
            raise PermissionError(13, 'Permission denied', str(path))
        return opened(path, *args, **kwargs)

    monkeypatch.setattr(
        'minigpt4.datasets.shard_cache.open', refused, raising=False
    )
    for each in 'aabb':
        assert read(server, f'{each}.tar', cache) == each.encode() * SIZE
    assert len([line for line in log if 'Permission denied' in line]) == 1
    assert 'read without it' in ''.join(log)


@pytest.mark.parametrize('name', ['', '/below'])
def test_folder_that_is_a_file_is_refused(folder, name):
    folder.write_text('')
    with pytest.raises(ValueError, match='cache_dir.* cannot be created'):
        ShardCache(f'{folder}{name}', SIZE)
