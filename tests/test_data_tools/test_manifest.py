# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
import hashlib
import json

from tests.data_sets import jpeg, noise, pair, write_shard

from minigpt4.data_tools.find_data import find_data
from minigpt4.data_tools.manifest import build_manifest, compare_manifests
from minigpt4.data_tools.scan import Scan


def manifest(source):
    parts = find_data([str(source)]).parts
    scan = Scan(perceptual=False)
    for part in parts:
        scan.read(part)
    return build_manifest([str(source)], parts, scan, {})


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


def test_shards(tmp_path):
    good, bad = tmp_path / 'web' / '0.tar', tmp_path / 'web' / '1.tar'
    write_shard(good, {'a': pair(1, 'a'), 'b': pair(2, 'b')})
    write_shard(bad, {'a': dict(json=b'{"caption": "a"}')})
    before = manifest(tmp_path)
    assert before['shards'] == [dict(shard=str(good), samples=2)]
    (excluded,) = before['excluded']
    assert excluded['shard'] == str(bad)
    assert excluded['reason'] == 'no sample of it can be used'
    assert before['images'] == {}
    write_shard(good, {'a': pair(1, 'a'), 'b': pair(3, 'b')})
    assert changes(before, manifest(tmp_path)) == [('web/0.tar', 'changed')]


def test_commands_are_excluded(tmp_path):
    path = write_shard(tmp_path / '0.tar', {'a': pair(1, 'a')})
    found = manifest(f'pipe:cat {path}')
    assert found['shards'] == []
    assert found['excluded'][0]['reason'].startswith('it is a command')
