# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Shards of servers, stores and commands are read, with retries."""

import os
import threading
import time
from email.utils import formatdate
from pathlib import Path

import fsspec
import pytest
from tests.shard_server import ShardServer

from minigpt4.datasets import remote_shards
from minigpt4.datasets.remote_shards import RemoteShard, check_store
from minigpt4.datasets.shard_files import (
    LostShardError,
    ShardBytes,
    find_shards,
    is_remote,
)
from minigpt4.utils.time_limit import READ_SECONDS_VARIABLE

DATA = os.urandom(1_500_000)


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    for name in ('http_proxy', 'HTTP_PROXY', 'all_proxy', 'ALL_PROXY'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(remote_shards, 'FIRST_WAIT', 0.01)


@pytest.fixture
def server(tmp_path):
    (tmp_path / 'a.tar').write_bytes(DATA)
    with ShardServer(tmp_path) as running:
        yield running


def read(shard, **settings):
    with ShardBytes(shard, True, **settings) as data:
        return b''.join(data)


def test_shard_of_a_server_is_read(server):
    counted = []
    url = f'{server.url}/x/a.tar'
    assert find_shards(url) == ([url], {url}, 0)
    assert read(url, count=counted.append) == DATA
    assert sum(counted) == len(DATA)


@pytest.mark.parametrize('etag', ['"one"', 'W/"one"', ''])
def test_read_that_breaks_off_continues_at_the_same_byte(server, etag):
    server.etag = etag
    server.cut['a.tar'] = [400_000, 300_000, 0, 200_000, 0]
    assert read(f'{server.url}/x/a.tar') == DATA
    asked = [wanted for _, wanted in server.requests]
    starts = [400_000, 700_000, 700_000, 900_000, 900_000]
    assert asked == [None, *(f'bytes={start}-' for start in starts)]


def test_server_without_ranges_is_read_again_from_the_start(server):
    server.has_ranges = False
    server.cut['a.tar'] = [400_000, 100_000, 700_000, 800_000]
    assert read(f'{server.url}/x/a.tar') == DATA
    assert len(server.requests) == 5


@pytest.mark.parametrize('tags_ranges', [True, False])
def test_shard_that_changes_while_it_is_read_is_given_up(server, tags_ranges):
    server.tags_ranges = tags_ranges
    server.cut['a.tar'] = [400_000]
    with pytest.raises(LostShardError, match='has changed while it was read'):
        with ShardBytes(f'{server.url}/x/a.tar', True) as data:
            for chunk in data:
                assert DATA.startswith(chunk) or chunk in DATA
                server.etag = '"two"'


@pytest.mark.parametrize('status', [401, 403, 404, 410])
def test_final_status_is_not_tried_again(server, status):
    server.statuses['a.tar'] = [status]
    with pytest.raises(LostShardError, match=f'HTTP Error {status}'):
        read(f'{server.url}/x/a.tar')
    assert len(server.requests) == 1


@pytest.mark.parametrize('status', [429, 500, 503])
def test_temporary_status_is_tried_until_the_time_limit(
    server, status, monkeypatch, log
):
    server.statuses['a.tar'] = [status] * 6  # more than ATTEMPTS
    assert read(f'{server.url}/x/a.tar') == DATA
    assert len(server.requests) == 7
    lines = [line for line in log if 'it is tried again for' in line]
    assert len(lines) == 1 and f'HTTP Error {status}' in lines[0]
    monkeypatch.setenv(READ_SECONDS_VARIABLE, '3')
    server.statuses['a.tar'] = [status] * 1000
    start = time.monotonic()
    with pytest.raises(LostShardError, match=f'HTTP Error {status}'):
        read(f'{server.url}/x/a.tar')
    assert 0.2 < time.monotonic() - start < 60
    assert 0 < len(server.requests) - 7 < 30  # the waits grow


@pytest.mark.parametrize('is_date', [False, True])
def test_wait_that_a_server_asks_for_is_kept(server, is_date, monkeypatch):
    server.statuses['a.tar'] = [503]
    server.retry_after = '1'
    if is_date:
        server.retry_after = formatdate(time.time() + 2, usegmt=True)
    start = time.monotonic()
    assert read(f'{server.url}/x/a.tar') == DATA
    assert time.monotonic() - start > 0.9
    if is_date:
        return
    monkeypatch.setenv(READ_SECONDS_VARIABLE, '8')
    server.statuses['a.tar'] = [503]
    server.retry_after = '3600'  # more than the limit
    assert read(f'{server.url}/x/a.tar') == DATA


def test_server_that_starts_late_is_waited_for(tmp_path):
    (tmp_path / 'a.tar').write_bytes(DATA)
    with ShardServer(tmp_path) as first:
        port = first.server_port
    late = []

    def start():
        late.append(ShardServer(tmp_path, port).__enter__())

    timer = threading.Timer(0.3, start)
    timer.start()
    try:
        assert read(f'http://127.0.0.1:{port}/x/a.tar') == DATA
    finally:
        timer.join()
        late[0].__exit__()


@pytest.mark.parametrize('names_size', [True, False])
def test_shard_that_is_sent_in_ranges_is_read_completely(server, names_size):
    server.piece, server.names_size = 400_000, names_size
    assert read(f'{server.url}/x/a.tar') == DATA
    asked = [wanted for _, wanted in server.requests]
    starts = [400_000, 800_000, 1_200_000]
    if not names_size:
        starts.append(len(DATA))  # answered with 416
    assert asked == [None, *(f'bytes={start}-' for start in starts)]
    server.requests.clear()
    server.cut['a.tar'] = [100_000, 400_000, 200_000]
    assert read(f'{server.url}/x/a.tar') == DATA


def test_range_that_begins_at_another_byte_is_not_used(server, monkeypatch):
    monkeypatch.setenv(READ_SECONDS_VARIABLE, '3')
    server.cut['a.tar'] = [400_000]
    server.shift = 3
    with pytest.raises(LostShardError, match='not those from 400000 on'):
        read(f'{server.url}/x/a.tar')


@pytest.mark.parametrize('name', ['ä b.tar', '%C3%A4%20b.tar'])
def test_address_is_quoted(server, name):
    (server.folder / '%C3%A4%20b.tar').write_bytes(DATA)
    assert read(f'{server.url}/x/{name}') == DATA
    assert server.requests == [('/x/%C3%A4%20b.tar', None)]


def test_scheme_in_capitals_is_accepted(server):
    url = f'{server.url}/x/a.tar'
    found = find_shards(url.replace('http', 'HTTP'))
    assert found == ([url], {url}, 0)


@pytest.mark.parametrize('sent', [0, 300_000])
def test_server_that_does_not_respond_is_given_up(server, sent, monkeypatch):
    monkeypatch.setenv(READ_SECONDS_VARIABLE, '0.6')
    server.blocked, server.block_after = {'a.tar'}, sent
    server.has_ranges = False
    start = time.monotonic()
    with pytest.raises(LostShardError, match='server or command does not|tim'):
        read(f'{server.url}/x/a.tar')
    assert time.monotonic() - start < 50


def test_no_server_is_an_error(server, monkeypatch):
    monkeypatch.setenv(READ_SECONDS_VARIABLE, '2')
    url = server.url
    server.shutdown()
    server.server_close()
    with pytest.raises(LostShardError, match='refused'):
        read(f'{url}/x/a.tar')


def test_user_and_password_of_a_url_become_a_header(server, monkeypatch):
    seen = []
    opened = remote_shards.urlopen

    def noted(request, **kwargs):
        seen.append((request.full_url, request.get_header('Authorization')))
        return opened(request, **kwargs)

    monkeypatch.setattr(remote_shards, 'urlopen', noted)
    host = server.url.removeprefix('http://')
    assert read(f'http://me:p%40ss@{host}/x/a.tar') == DATA
    assert seen == [(f'{server.url}/x/a.tar', 'Basic bWU6cEBzcw==')]


def test_login_is_not_sent_to_the_host_of_a_redirection(server):
    with ShardServer(server.folder) as other:
        server.other = other.url
        host = server.url.removeprefix('http://')
        assert read(f'http://me:pass@{host}/x/a.tar') == DATA
        assert server.logins[0] and other.logins == [None]


def test_command_that_fails_at_its_end_is_an_error(tmp_path):
    (tmp_path / 'a.tar').write_bytes(DATA)
    with pytest.raises(LostShardError, match='command ended with exit code 3'):
        read(f'pipe:cat {tmp_path}/a.tar; exec >&-; exit 3')


@pytest.mark.parametrize(
    ('command', 'message'),
    [
        ('false', 'the command ended with exit code 1$'),
        ('no-such-program-x', r'exit code 127 \(command not found\)'),
        ('kill -9 $$', 'the command ended with signal 9'),
    ],
)
def test_failed_command_is_described(command, message):
    with pytest.raises(LostShardError, match=message):
        read(f'pipe:{command}')


def test_command_that_fails_once_continues_at_the_same_byte(tmp_path):
    (tmp_path / 'a.tar').write_bytes(DATA)
    command = (
        f'pipe:if mkdir {tmp_path}/once 2>/dev/null; then '
        f'head -c 300000 {tmp_path}/a.tar; exit 1; fi; cat {tmp_path}/a.tar'
    )
    assert read(command) == DATA


@pytest.mark.parametrize(
    'command', ['exec sleep 99', 'sleep 99; true', 'sleep 99 | cat']
)
def test_command_that_does_not_respond_is_ended(
    tmp_path, monkeypatch, command
):
    monkeypatch.setenv(READ_SECONDS_VARIABLE, '3')
    pid = tmp_path / 'pid'
    with pytest.raises(LostShardError, match='within 3 seconds, its server'):
        read(f'pipe:echo $$ >> {pid}; {command}')
    assert len(pid.read_text().split()) == 1  # not run again
    group = int(pid.read_text())
    for _ in range(1200):
        if not running_processes(group):
            return
        threading.Event().wait(0.05)
    pytest.fail('processes of the command are still running')


def running_processes(group):
    """Processes of a group, without ended ones that are not collected."""
    found = []
    for path in Path('/proc').glob('[0-9]*/stat'):
        try:
            fields = path.read_text().rpartition(')')[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != 'Z':
            found.append(path)
    return found


def test_store_of_fsspec_is_read():
    with fsspec.open('memory://shards/a.tar', 'wb') as file:
        file.write(DATA)
    url = 'memory://shards/{a..b}.tar'
    found, remote, missing = find_shards(url)
    assert found == ['memory://shards/a.tar', 'memory://shards/b.tar']
    assert remote == {*found} and not missing
    assert read(found[0]) == DATA
    with pytest.raises(LostShardError, match='FileNotFoundError'):
        read(found[1])


def test_seek_in_a_store_continues_a_read(monkeypatch):
    with fsspec.open('memory://shards/c.tar', 'wb') as file:
        file.write(DATA)
    stream = RemoteShard('memory://shards/c.tar')
    buffer = bytearray(1000)
    assert stream.readinto(buffer) == 1000
    kept = remote_shards.fsspec.core.url_to_fs
    failures = [OSError('reset')]

    def failing(url):
        if failures:
            raise failures.pop()
        return kept(url)

    monkeypatch.setattr(remote_shards.fsspec.core, 'url_to_fs', failing)
    monkeypatch.setattr(
        stream, '_stream', type('Broken', (), dict(read=_reset, close=_reset))
    )
    assert stream.readinto(buffer) == 1000
    assert bytes(buffer) == DATA[1000:2000]


def _reset(*_):
    raise OSError('reset')


def test_store_whose_package_is_missing_is_refused(monkeypatch):
    def missing(scheme):
        raise ImportError(f'Install {scheme}fs')

    monkeypatch.setattr(fsspec, 'get_filesystem_class', missing)
    with pytest.raises(ValueError, match='package that is not .*Install s3fs'):
        find_shards('s3://bucket/{0..3}.tar')
    monkeypatch.setattr(remote_shards.shutil, 'which', lambda name: None)
    with pytest.raises(ValueError, match='the program gsutil, and neither'):
        check_store('gs://bucket/0.tar')
    monkeypatch.setattr(remote_shards.shutil, 'which', lambda name: '/x')
    check_store('gs://bucket/0.tar')


@pytest.mark.parametrize(
    ('name', 'remote'),
    [
        ('https://host/0.tar', True),
        ('s3://bucket/0.tar', True),
        ('gs://bucket/0.tar', True),
        ('pipe:cat 0.tar', True),
        ('memory://0.tar', True),
        ('dir/0.tar', False),
        ('run:1/0.tar', False),
        ('zip:1.tar', False),
        ('file:///0.tar', False),
    ],
)
def test_remote_shards_are_known_by_their_scheme(name, remote):
    assert is_remote(name) == remote


def test_interrupt_ends_a_wait(server):
    server.statuses['a.tar'] = [503] * 99
    server.retry_after = '3600'
    stream = RemoteShard(f'{server.url}/x/a.tar')
    threading.Timer(0.2, stream.interrupt).start()
    start = time.monotonic()
    with pytest.raises(OSError, match='503'):
        stream.readinto(bytearray(1000))
    assert time.monotonic() - start < 40
    assert len(server.requests) == 1
