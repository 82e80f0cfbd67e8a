# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
import json

import pytest
from tests.data_sets import jpeg, noise, pair, write_shard

from minigpt4.data_tools.find_data import find_data


def kinds(found):
    return {part.name: (part.kind, part.held_out) for part in found.parts}


def test_a_folder_of_several_sets(tmp_path, records):
    write_shard(tmp_path / 'web' / '00000.tar', {'1': pair(1, 'a dog')})
    write_shard(tmp_path / 'web' / '00001.TAR', {'2': pair(2, 'a cat')})
    (tmp_path / 'test').mkdir()
    (tmp_path / 'test' / 'all.jsonl').write_text(
        '{"question": "What?", "image_id": 1}\n'
    )
    (tmp_path / 'set' / 'notes.json').write_text('{"a": 1}')
    (tmp_path / '.hidden').mkdir()
    (tmp_path / '.hidden' / 'x.json').write_text('[{"caption": "a"}]')
    found = find_data([str(tmp_path)])
    assert kinds(found) == {
        'set/filter_cap.json': ('records', False),
        'test/all.jsonl': ('records', True),
        'web': ('shards', False),
    }
    assert [len(part.shards) for part in found.parts][-1] == 2
    (ignored,) = found.ignored
    assert ignored.startswith('set/notes.json is not used: ')


def test_photographs_with_texts_and_without(tmp_path):
    (tmp_path / 'dog.JPG').write_bytes(jpeg(noise(1)))
    (part,) = find_data([str(tmp_path)]).parts
    assert (part.kind, len(part.images)) == ('images', 1)
    (tmp_path / 'dog.txt').write_text('a dog')
    (part,) = find_data([str(tmp_path)]).parts
    assert (part.kind, len(part.photos.train)) == ('photos', 1)


def test_coco_captions(tmp_path):
    (tmp_path / 'train').mkdir()
    (tmp_path / 'train' / '1.jpg').write_bytes(jpeg(noise(1)))
    (tmp_path / 'captions_train.json').write_text(
        json.dumps(
            dict(
                images=[dict(id=1, file_name='1.jpg')],
                annotations=[dict(image_id=1, caption='a dog')],
            )
        )
    )
    (part,) = find_data([str(tmp_path)]).parts
    assert part.kind == 'photos'


def test_our_own_files_are_ignored(tmp_path, records):
    for name in ('import.json', 'skipped.jsonl', 'datasheet.json'):
        (records / name).write_text('{"a": 1}\n')
    (records / 'skipped.jsonl').write_text('')
    (records / 'a.parquet').write_bytes(b'PAR1')
    found = find_data([str(records)])
    assert [part.name for part in found.parts] == ['filter_cap.json']
    (ignored,) = found.ignored
    assert ignored.startswith('a.parquet is not used: training')


def test_a_pattern_of_shards(tmp_path):
    write_shard(tmp_path / '00000.tar', {'1': pair(1, 'a dog')})
    found = find_data([str(tmp_path / '{00000..00002}.tar')])
    assert len(found.parts[0].shards) == 1
    assert found.ignored[0].startswith('2 of 3 shards')


def test_parts_of_several_sources_have_different_names(tmp_path):
    for name in ('laion', 'cc'):
        write_shard(tmp_path / name / 'shards' / '0.tar', {'1': pair(1, 'a')})
    sources = [
        str(tmp_path / 'laion' / 'shards'),
        str(tmp_path / 'cc' / 'shards' / '*.tar'),
        f'pipe:cat {tmp_path}/cc/shards/0.tar',
    ]
    names = [part.name for part in find_data(sources).parts]
    assert names == ['laion/shards', 'cc/shards/*.tar', '0.tar']


def test_data_that_are_given_twice(tmp_path, records):
    file = str(records / 'filter_cap.json')
    found = find_data([str(records), file])
    assert len(found.parts) == 1
    (note,) = found.ignored
    assert note.startswith('several sources contain the same files (1)')


@pytest.mark.parametrize(
    ('name', 'content', 'message'),
    [
        ('gone.json', None, 'gone.json does not exist'),
        ('gone.tar', None, 'no shard matches'),
        ('cat.jpg', b'x', 'is no data that is known'),
        ('a.parquet', b'x', 'minigpt4 data import .*a.parquet -o DIR'),
        ('empty/', None, 'has no data; expected shards'),
    ],
)
def test_no_data(tmp_path, name, content, message):
    path = tmp_path / name
    if name.endswith('/'):
        path.mkdir()
    elif content:
        path.write_bytes(content)
    with pytest.raises((FileNotFoundError, ValueError), match=message):
        find_data([str(path)])
