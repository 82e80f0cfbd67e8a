# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
import json

import pytest

from minigpt4.utils.data_manifest import (
    MANIFEST_FORMAT,
    MANIFEST_VERSION,
    read_manifest,
    read_shards,
)

EMPTY = dict(
    format=MANIFEST_FORMAT, version=MANIFEST_VERSION, files={}, images={}
)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('x', 'is no JSON file'),
        ('[]', 'is no manifest of data'),
        ('{"format": "x"}', 'is no manifest of data'),
        (json.dumps({**EMPTY, 'version': 1}), 'has version 1 of the format'),
        (json.dumps({**EMPTY, 'version': 2}), 'data check DATA -o DIR'),
    ],
)
def test_no_manifest(tmp_path, text, message):
    path = tmp_path / 'a.json'
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_manifest(path)


@pytest.mark.parametrize(
    'shards', [None, [], ['a.tar'], [dict(samples=1)], [dict(shard=1)], 3]
)
def test_no_shards(tmp_path, shards):
    path = tmp_path / 'manifest.json'
    content = EMPTY if shards is None else {**EMPTY, 'shards': shards}
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match='manifest.json lists no shard'):
        read_shards(path)


@pytest.mark.parametrize(
    ('version', 'is_read'), [(1, False), (2, True), (MANIFEST_VERSION, True)]
)
def test_the_list_of_shards_of_older_manifests(tmp_path, version, is_read):
    path = tmp_path / 'manifest.json'
    content = {**EMPTY, 'version': version, 'shards': [dict(shard='/0.tar')]}
    path.write_text(json.dumps(content))
    if is_read:
        assert read_shards(path) == ['/0.tar']
    else:
        with pytest.raises(ValueError, match='has version 1 of the format'):
            read_shards(path)


@pytest.mark.parametrize(
    'shard', ['pipe:cat 3.tar', "gs://a/b'; ls'", 'https://host/a b.tar']
)
def test_a_manifest_starts_no_program(tmp_path, shard):
    path = tmp_path / 'manifest.json'
    path.write_text(json.dumps({**EMPTY, 'shards': [dict(shard=shard)]}))
    with pytest.raises(ValueError, match='A command has to be in the config'):
        read_shards(path)


def test_paths_are_relative_to_the_manifest(tmp_path):
    names = ['../web/0.tar', '/data/1.tar', 'https://host/2.tar']
    content = {**EMPTY, 'shards': [dict(shard=name) for name in names]}
    path = tmp_path / 'check' / 'manifest.json'
    path.parent.mkdir()
    path.write_text(json.dumps(content))
    assert read_shards(path) == [str(tmp_path / 'web' / '0.tar'), *names[1:]]
