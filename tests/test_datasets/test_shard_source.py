# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Streams of shards that block, vanish, are damaged or empty."""

import os
import tarfile

import pytest
from tests.shard_server import ShardServer

from minigpt4.datasets.shard_source import ShardStream, Source
from minigpt4.utils.time_limit import READ_SECONDS_VARIABLE


@pytest.fixture
def server(tmp_path, write_shard, monkeypatch):
    """A server of eight shards, of which each has another fault."""
    monkeypatch.delenv('http_proxy', raising=False)
    monkeypatch.setattr('minigpt4.datasets.remote_shards.FIRST_WAIT', 0.01)
    for i in range(8):
        captions = [f'{i} {j}' for j in range(1 + i)]
        write_shard(tmp_path / f'{i}.tar', captions)
    (tmp_path / '2.tar').unlink()  # answered with 404
    (tmp_path / '3.tar').write_bytes(b'')
    with tarfile.open(tmp_path / '4.tar', 'w'):
        pass
    data = bytearray((tmp_path / '5.tar').read_bytes())
    data[:9000] = os.urandom(9000)
    (tmp_path / '5.tar').write_bytes(data)
    with ShardServer(tmp_path) as running:
        running.blocked = {'1.tar'}
        yield running


def make(shards, **settings):
    defaults = dict(name='a', weight=1, seed=0, shuffle=0)
    return Source(shards=shards, **defaults | settings)


def shard_of(sample):
    return sample['__url__'].rpartition('/')[2][0]


def test_faulty_shards_are_given_up_and_counted(server, monkeypatch, log):
    monkeypatch.setenv(READ_SECONDS_VARIABLE, '4')
    source = make(f'{server.url}/x/{{0..7}}.tar')
    stream = ShardStream(source, 0, 1)
    seen = []
    while stream.num_shards < 8:
        seen.append(shard_of(stream.next()))
    seen.pop()  # of the next pass
    assert [seen.count(name) for name in '01234567'] == [
        *(1, 0, 0, 0, 0),
        seen.count('5'),
        *(7, 8),
    ]
    assert 0 < seen.count('5') < 6
    assert source.error_counts['shard was given up'] == 2
    assert source.error_counts['part of a shard cannot be read'] >= 3
    assert {shard[-5] for shard in source.given_up} == {'1', '2'}
    lines = [line for line in log if '/1.tar' in line or '/2.tar' in line]
    assert any('HTTP Error 404' in line for line in lines)
    assert any('not read within 4 seconds' in line for line in lines) or any(
        'timed out' in line for line in lines
    )


def test_shard_that_is_lost_before_a_resume_is_given_up(server, monkeypatch):
    source = make(f'{server.url}/x/{{6..7}}.tar')
    stream = ShardStream(source, 0, 1)
    for _ in range(3):
        first = shard_of(stream.next())
    position = stream.num_shards, stream.num_samples
    assert position == (0, 3)
    server.statuses[f'{first}.tar'] = [404]
    resumed = ShardStream(source, 0, 1, position)
    assert shard_of(resumed.next()) != first
    assert source.error_counts['shard was given up'] == 1
    assert (resumed.num_shards, resumed.num_samples) == (1, 1)


def test_server_that_is_gone_ends_the_run(server, monkeypatch):
    url = server.url
    server.shutdown()
    server.server_close()
    monkeypatch.setenv(READ_SECONDS_VARIABLE, '1')
    stream = ShardStream(make(f'{url}/x/{{0..2}}.tar'), 0, 1)
    with pytest.raises(
        ValueError, match='^http.*refused.*3 of the 3 '
    ) as info:
        stream.next()
    assert 'contain' not in str(info.value)
    monkeypatch.setenv(READ_SECONDS_VARIABLE, '0.05')
    stream = ShardStream(make(f'{url}/x/{{000..999}}.tar'), 0, 1)
    with pytest.raises(ValueError, match='no shard of .* given up; check the'):
        stream.next()


def test_one_shard_is_read_by_all_streams_in_other_orders(
    tmp_path, write_shard
):
    write_shard(tmp_path / '0.tar', [f'0 {j}' for j in range(20)])
    source = make(str(tmp_path / '0.tar'), shuffle=20)
    orders = []
    for number in range(3):
        stream = ShardStream(source, number, 3)
        orders.append([stream.next()['__key__'] for _ in range(40)])
    for order in orders:
        assert sorted(order[:20]) == sorted(order[20:]) == sorted({*order})
    assert len({tuple(order) for order in orders}) == 3


def test_bytes_are_counted_before_they_are_decompressed(tmp_path, write_shard):
    write_shard(tmp_path / '0.tar', [f'0 {j}' for j in range(20)])
    size = (tmp_path / '0.tar').stat().st_size
    source = make(str(tmp_path / '0.tar'))
    assert len([*source.samples_of(source.shards[0])]) == 20
    assert source.bytes_read == size


def test_reason_is_named_if_some_shards_are_lost(server):
    stream = ShardStream(make(f'{server.url}/x/{{2..4}}.tar'), 0, 1)
    expected = '^http.*/2.tar.*404.* 1 of the 3 .*; the others contain no'
    with pytest.raises(ValueError, match=expected):
        stream.next()


@pytest.mark.parametrize(
    ('page', 'kind'),
    [
        (b'<!DOCTYPE html><p>log in', 'it is an HTML page, not a tar'),
        (b'\n <HTML><p>busy', 'it is an HTML page, not a tar'),
        (b'<?xml version="1.0"?><Error/>', 'it is an XML document, not a tar'),
    ],
)
def test_web_page_instead_of_a_shard_is_named(server, page, kind):
    (server.folder / '6.tar').write_bytes(page)
    stream = ShardStream(make(f'{server.url}/x/6.tar'), 0, 1)
    with pytest.raises(ValueError, match=kind):
        stream.next()


def test_address_of_a_written_config_is_refused():
    with pytest.raises(ValueError, match=r'\*\*\*@host/2.tar has no user'):
        make('https://***@host/{2..3}.tar')


def test_password_of_an_address_is_not_shown(server, monkeypatch, log):
    base = server.url.replace('//', '//user:s3cret@')
    source = make(f'{base}/x/{{2..6}}.tar')
    for shard in source.shards:
        for files in source.samples_of(shard):
            assert 's3cret' not in str(files)
            assert '://***@' in files['__url__']
    assert '://***@' in ''.join(log)
    stream = ShardStream(make(f'{base}/x/2.tar'), 0, 1)
    with pytest.raises(ValueError, match='404') as info:
        stream.next()
    monkeypatch.setenv(READ_SECONDS_VARIABLE, '0.2')
    server.statuses['6.tar'] = [503] * 999
    command = f'pipe:false {base}/x/6.tar'
    for shard in (f'{base}/x/6.tar', command, f'{base}/x/a b.tar'):
        source = make(shard)
        assert not [*source.samples_of(source.shards[0])]
    with pytest.raises(FileNotFoundError) as missing:
        make(f'/no/such/{base}/0.tar')
    for text in (*log, str(info.value), str(missing.value)):
        assert 's3cret' not in text
