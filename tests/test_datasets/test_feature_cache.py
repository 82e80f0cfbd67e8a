# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Damaged caches and several writers of one cache."""

import json
import os
import resource
import signal

import pytest
import torch

from minigpt4.datasets import SampleError, feature_writer
from minigpt4.datasets.feature_cache import FeatureCache, image_digest
from minigpt4.datasets.feature_writer import FeatureWriter


def fill(folder, count=4, rank=0):
    """Write some records; return the digests of their images."""
    writer = FeatureWriter(folder, {'by': 'test'}, (2, 3), 'float32', rank)
    digests = [image_digest(bytes([rank, i])) for i in range(count)]
    values = torch.arange(count).float()[:, None, None].expand(-1, 2, 3)
    writer.add(digests, values)
    writer.close()
    return digests


def test_second_writer_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(feature_writer, 'LOCK_SECONDS', 0.1)
    first = FeatureWriter(tmp_path, {'by': 'test'}, (2, 3))
    with pytest.raises(ValueError, match='another process already writes'):
        FeatureWriter(tmp_path, {'by': 'test'}, (2, 3))
    FeatureWriter(tmp_path, {'by': 'test'}, (2, 3), rank=1).close()
    first.close()
    FeatureWriter(tmp_path, {'by': 'test'}, (2, 3)).close()


def test_lock_of_a_killed_writer_is_free(tmp_path):
    child = os.fork()
    if child == 0:
        FeatureWriter(tmp_path, {'by': 'test'}, (2, 3), 'float32')
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert len(fill(tmp_path)) == 4


@pytest.mark.parametrize('offset', [0, 23, 30, 95])
def test_damaged_record_is_a_sample_error(tmp_path, offset):
    digests = fill(tmp_path)
    path = tmp_path / '0000.features'
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(bytes(data))
    cache = FeatureCache(tmp_path)
    for record, digest in enumerate(digests):
        if record == offset // 24:
            with pytest.raises(
                SampleError, match=f'record {record} of .* damag'
            ):
                cache[digest]
        else:
            assert cache[digest].unique().tolist() == [record]


def test_file_truncated_while_open_is_a_sample_error(tmp_path):
    digests = fill(tmp_path)
    cache = FeatureCache(tmp_path)
    cache[digests[0]]
    os.truncate(tmp_path / '0000.features', 30)
    assert cache[digests[0]].unique().tolist() == [0]
    with pytest.raises(SampleError, match='record 3'):
        cache[digests[3]]


def test_missing_checksums_are_added(tmp_path):
    digests = fill(tmp_path)
    (tmp_path / '0000.checksums').unlink()
    assert FeatureCache(tmp_path)[digests[2]].unique().tolist() == [2]
    FeatureWriter(tmp_path, {'by': 'test'}, (2, 3), 'float32').close()
    assert (tmp_path / '0000.checksums').stat().st_size == 16
    assert FeatureCache(tmp_path)[digests[2]].unique().tolist() == [2]


@pytest.mark.parametrize('file', ['features', 'digests', 'checksums'])
@pytest.mark.parametrize('size', [0, 1, 35, 50])
def test_complete_records_of_truncated_files_are_kept(tmp_path, file, size):
    digests = fill(tmp_path)
    path = tmp_path / f'0000.{file}'
    if size < path.stat().st_size:
        os.truncate(path, size)
    cache = FeatureCache(tmp_path)
    for record, digest in enumerate(digests):
        if digest in cache:
            assert cache[digest].unique().tolist() == [record]
    writer = FeatureWriter(tmp_path, {'by': 'test'}, (2, 3), 'float32')
    missing = [i for i, d in enumerate(digests) if d not in cache]
    if missing:
        values = torch.tensor(missing).float()[:, None, None].expand(-1, 2, 3)
        writer.add([digests[i] for i in missing], values)
    writer.close()
    cache = FeatureCache(tmp_path)
    for record, digest in enumerate(digests):
        assert cache[digest].unique().tolist() == [record]


@pytest.mark.parametrize(
    'text',
    [
        '',
        '{',
        'null',
        '[' * 100_000,
        '{}',
        '{"provenance": {}, "shape": [2], "dtype": "float16"}',
        '{"provenance": {}, "shape": [2, -3], "dtype": "float16"}',
        '{"provenance": {}, "shape": "ab", "dtype": "float16"}',
        '{"provenance": {}, "shape": [2, 3], "dtype": "int8"}',
        '{"provenance": 5, "shape": [2, 3], "dtype": "float16"}',
    ],
)
def test_damaged_metadata_is_refused(tmp_path, text):
    (tmp_path / 'cache.json').write_text(text)
    with pytest.raises(
        ValueError, match=r'cache\.json is damaged or does not bel'
    ):
        FeatureCache(tmp_path)


@pytest.mark.parametrize(
    'name', ['cache.json', '0000.features', '0000.digests', '0000.skipped']
)
def test_cache_file_that_is_a_fifo_is_refused(tmp_path, name):
    fill(tmp_path)
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    for use in (
        lambda: FeatureCache(tmp_path),
        lambda: FeatureWriter(tmp_path, {'by': 'test'}, (2, 3), 'float32'),
    ):
        with pytest.raises(ValueError, match='is a FIFO'):
            use()


def test_missing_digests_are_refused(tmp_path):
    fill(tmp_path)
    (tmp_path / '0000.digests').unlink()
    with pytest.raises(ValueError, match=r'0000\.digests is missing'):
        FeatureCache(tmp_path)


def test_full_disk_keeps_complete_records(tmp_path):
    writer = FeatureWriter(tmp_path, {'by': 'test'}, (2, 3), 'float32')
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30, limits[1]))
    try:
        with pytest.raises(OSError, match=r'0000\.features could not be wri'):
            writer.add(
                [image_digest(b'a'), image_digest(b'b')], torch.zeros(2, 2, 3)
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, previous)
    writer.close()
    assert len(FeatureCache(tmp_path)) == 0
    assert len(fill(tmp_path)) == len(FeatureCache(tmp_path)) == 4


def test_cache_of_version_0_1_is_read(tmp_path):
    digests = fill(tmp_path)
    path = tmp_path / 'cache.json'
    metadata = json.loads(path.read_text())
    metadata['maker'] = metadata.pop('provenance')
    path.write_text(json.dumps(metadata))
    cache = FeatureCache(tmp_path)
    cache.check({'by': 'test'})
    assert cache[digests[3]].unique().tolist() == [3]
    with pytest.raises(ValueError, match='by "test" instead of "other"'):
        cache.check({'by': 'other'})
