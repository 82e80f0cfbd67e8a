# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
import pytest
from tests.data_sets import jpeg, noise, pair, write_shard

from minigpt4.data_tools.data_items import (
    iterate,
    read_image_bytes,
    read_sample,
)
from minigpt4.data_tools.find_data import find_data


def read(source, **options):
    reports = []
    items = []
    for part in find_data([str(source)]).parts:
        items += iterate(
            part, lambda kind, text: reports.append((kind, text)), **options
        )
    return items, reports


def test_records_and_their_images(records):
    items, _ = read(records)
    assert [item.id for item in items] == ['1', '2', '3', '4']
    assert items[0].turns[0].answer == 'a red dog'
    assert items[0].images[0].name == 'image/1.jpg'
    assert read_image_bytes(items[0].images[0]) == jpeg(noise(1))


def test_an_invalid_record_is_an_item(records):
    path = records / 'filter_cap.json'
    path.write_text(
        '[{"image_id": 1, "caption": "a"}, {"id": "7", "image": "1"}, 5]'
    )
    items, _ = read(path)
    assert [item.id for item in items[1:]] == ['record 1 (id 7)', 'record 2']
    assert 'expected caption' in items[1].error
    assert items[2].error == 'is a number; expected an object'


def test_another_image_folder(records, tmp_path):
    (tmp_path / 'other').mkdir()
    (tmp_path / 'other' / '1.jpg').write_bytes(jpeg(noise(9)))
    items, _ = read(records, image_folder=tmp_path / 'other')
    assert read_image_bytes(items[0].images[0]) == jpeg(noise(9))


@pytest.mark.parametrize('name', ['a.tar', 'a.tar.gz'])
def test_samples_of_shards_are_found_again(tmp_path, name):
    samples = {f'{i:03d}': pair(i, f'caption {i}') for i in range(5)}
    samples['003'].pop('jpg')
    samples['004']['json'] = b'{'
    items, reports = read(write_shard(tmp_path / name, samples))
    assert reports == []
    assert [bool(item.error) for item in items] == [False] * 3 + [True] * 2
    for i in (2, 0, 1, 4):
        (ref,) = items[i].images
        again = ref.__class__(ref.name, span=ref.span)
        assert read_image_bytes(again) == samples[f'{i:03d}']['jpg']


@pytest.mark.parametrize('source', ['odd', 'odd/images.tar', 'odd/im*.tar'])
def test_an_invalid_sample_is_named_with_its_shard(tmp_path, source):
    sample = dict(jpg=jpeg(noise(1)), json=b'{}')
    write_shard(tmp_path / 'odd' / 'images.tar', {'000': sample})
    write_shard(tmp_path / 'odd' / 'more.tar', {'000': pair(1, 'a')})
    items, _ = read(tmp_path / source)
    name = 'odd/images.tar#000' if source == 'odd' else 'images.tar#000'
    assert items[0].name == items[0].images[0].name == name
    assert items[0].error == 'its json has no caption.'


def test_damage_is_reported_and_reading_continues(tmp_path):
    shard = write_shard(
        tmp_path / 'a.tar', {str(i): pair(i, 'a text') for i in range(4)}
    )
    data = bytearray(shard.read_bytes())
    data[: 512 * 3] = b'x' * 512 * 3
    shard.write_bytes(data)
    items, reports = read(shard)
    assert {kind for kind, _ in reports} == {'damaged'}
    assert items and items[-1].id == '3'
    for item in items[1:]:
        (ref,) = item.images
        assert read_image_bytes(ref) == jpeg(noise(int(item.id)))


def test_answers_of_held_out_records_are_kept(tmp_path):
    path = tmp_path / 'test.json'
    path.write_text(
        '[{"question": "A?", "image": "1"},'
        ' {"question": "B?", "image": "1", "answer": "b"}]'
    )
    items, _ = read(path)
    assert [item.turns[0].answer for item in items] == [None, 'b']
    assert all(item.held_out and item.error is None for item in items)


def test_places_of_files_without_content(tmp_path):
    """Python has one object for all empty bytes: places were confused."""
    samples = {f'a{i}': dict(jpg=b'', txt=b'a') for i in range(3)}
    samples |= {f'b{i}': dict(jpg=b'') for i in range(3)}
    shard = str(write_shard(tmp_path / '0.tar', samples))
    (part,) = find_data([shard]).parts
    spans = [item.images[0].span for item in iterate(part, print)]
    found = [read_sample(span) for span in spans]
    assert [files['__key__'] for files in found] == [*samples]
    assert all(files['jpg'] == b'' for files in found)
