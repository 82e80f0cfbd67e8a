# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
import hashlib
import json

import pytest
from tests.data_sets import jpeg, noise, pair, write_shard

from minigpt4.data_tools.find_data import find_data
from minigpt4.data_tools.manifest import (
    build_manifest,
    compare_manifests,
    read_manifest,
)
from minigpt4.data_tools.scan import Scan


def manifest(source):
    parts = find_data([str(source)]).parts
    scan = Scan(perceptual=False)
    for part in parts:
        scan.read(part)
    return build_manifest([str(source)], parts, scan)


def changes(before, after):
    return [(d.name, d.change) for d in compare_manifests(before, after)]


def test_digests_of_files_and_images(records):
    found = manifest(records)
    json_file = (records / 'filter_cap.json').read_bytes()
    assert found['files'] == {
        'filter_cap.json': dict(
            sha256=hashlib.sha256(json_file).hexdigest(), bytes=len(json_file)
        )
    }
    assert len(found['images']) == 4
    assert changes(found, manifest(records)) == []


def test_changed_missing_and_new_images(records):
    before = manifest(records)
    (records / 'image' / '1.jpg').write_bytes(jpeg(noise(9)))
    content = [dict(image_id=i, caption='a') for i in (1, 2, 9)]
    (records / 'image' / '9.jpg').write_bytes(jpeg(noise(9)))
    (records / 'filter_cap.json').write_text(json.dumps(content))
    assert changes(before, manifest(records)) == [
        ('filter_cap.json', 'changed'),
        ('image/1.jpg', 'changed'),
        ('image/3.jpg', 'missing'),
        ('image/4.jpg', 'missing'),
        ('image/9.jpg', 'new'),
    ]


def test_images_in_shards(tmp_path):
    write_shard(
        tmp_path / 'web' / '0.tar', {'a': pair(1, 'a'), 'b': pair(2, 'b')}
    )
    before = manifest(tmp_path)
    write_shard(
        tmp_path / 'web' / '0.tar', {'a': pair(1, 'a'), 'b': pair(3, 'b')}
    )
    assert changes(before, manifest(tmp_path)) == [
        ('web/0.tar', 'changed'),
        ('web/0.tar#b', 'changed'),
    ]


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('x', 'is no JSON file'),
        ('[]', 'is no manifest of data'),
        ('{"format": "x"}', 'is no manifest of data'),
        (
            '{"format": "minigpt4-data-manifest", "version": 9, '
            '"files": {}, "images": {}}',
            'has version 9',
        ),
    ],
)
def test_no_manifest(tmp_path, text, message):
    path = tmp_path / 'a.json'
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_manifest(path)
