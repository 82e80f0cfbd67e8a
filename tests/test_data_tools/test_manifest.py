# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
import hashlib
import json
import shutil
from pathlib import Path

import pytest
from tests.data_sets import jpeg, noise, pair, write_shard

from minigpt4.data_tools.find_data import find_data
from minigpt4.data_tools.manifest import build_manifest, compare_manifests
from minigpt4.data_tools.scan import Scan


def manifest(*sources):
    sources = [str(source) for source in sources]
    parts = find_data(sources).parts
    scan = Scan(perceptual=False)
    for part in parts:
        scan.read(part)
    return build_manifest(sources, parts, scan, {})


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


@pytest.mark.parametrize('pattern', ['', '/*.tar', '/0.tar', '/{0..1}.tar'])
def test_shards_with_equal_names(tmp_path, pattern):
    for name, number in (('laion', 1), ('cc', 2)):
        shard = tmp_path / name / 'shards' / '0.tar'
        write_shard(shard, {'a': pair(number, 'a')})
    sources = [tmp_path / f'{n}/shards{pattern}' for n in ('laion', 'cc')]
    before = manifest(*sources)
    assert [*before['files']] == ['laion/shards/0.tar', 'cc/shards/0.tar']
    write_shard(tmp_path / 'laion/shards/0.tar', {'a': pair(3, 'a')})
    assert changes(before, manifest(*sources)) == [
        ('laion/shards/0.tar', 'changed')
    ]


def test_equal_names_in_one_pattern(tmp_path):
    for name in ('a', 'b'):
        write_shard(tmp_path / name / '0.tar', {'a': pair(1, name)})
    found = manifest(tmp_path / '*' / '0.tar')
    assert [*found['files']] == ['a/0.tar', 'b/0.tar']


def test_images_and_records_with_equal_names(tmp_path, records):
    other = tmp_path / 'other'
    shutil.copytree(records, other)
    before = manifest(records, other)
    assert [*before['files']] == [
        'set/filter_cap.json',
        'other/filter_cap.json',
    ]
    assert len(before['images']) == 8
    (other / 'image' / '1.jpg').write_bytes(jpeg(noise(9)))
    assert changes(before, manifest(records, other)) == [
        ('other/image/1.jpg', 'changed')
    ]


@pytest.mark.parametrize('suffix', ['.jpg', '.txt'])
def test_photographs_with_equal_names(tmp_path, suffix):
    for name in ('a', 'b'):
        (tmp_path / name).mkdir()
        (tmp_path / name / '1.jpg').write_bytes(jpeg(noise(1)))
        if suffix == '.txt':
            (tmp_path / name / '1.txt').write_text('a dog')
    found = manifest(tmp_path / 'a', tmp_path / 'b')
    assert [*found['images']] == ['a/1.jpg', 'b/1.jpg']


def test_a_shard_that_is_given_twice_is_listed_once(tmp_path):
    web = tmp_path / 'web'
    for i in (0, 1):
        write_shard(web / f'{i}.tar', {'a': pair(i, 'a')})
    found = manifest(web / '0.tar', web / '{0..1}.tar', web)
    assert [Path(s['shard']).name for s in found['shards']] == [
        '0.tar',
        '1.tar',
    ]
    assert [s['samples'] for s in found['shards']] == [1, 1]
    assert [*found['files']] == ['0.tar', '1.tar']
    assert found['records'] == 2


def test_commands_are_excluded(tmp_path):
    path = write_shard(tmp_path / '0.tar', {'a': pair(1, 'a')})
    found = manifest(f'pipe:cat {path}')
    assert found['shards'] == []
    assert found['excluded'][0]['reason'].startswith('it is a command')
