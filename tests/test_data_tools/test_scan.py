# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
from PIL import Image
from tests.data_sets import jpeg, noise, pair, write_shard

from minigpt4.data_tools.find_data import find_data
from minigpt4.data_tools.scan import HELD_OUT, TRAIN, Scan


def scan(source, **options):
    found = Scan(perceptual=False, **options)
    for part in find_data([str(source)]).parts:
        found.read(part)
    return found


def test_counts_and_problems(records):
    found = scan(records)
    assert (found.num_records, found.num_valid) == (4, 4)
    assert (found.known.count_images(), found.num_images, found.num_turns) == (
        4,
        4,
        4,
    )
    (problem,) = found.problems
    assert (problem.kind, problem.name) == ('unreadable', 'image/4.jpg')
    assert found.scripts == dict(Latin=4)
    assert set(found.known.splits()) == {TRAIN}


def test_an_image_of_several_records_is_read_once(records):
    path = records / 'test.jsonl'
    path.write_text('{"image_id": 1, "caption": "a"}\n' * 3)
    found = scan(records)
    assert (found.known.count_images(), found.num_images) == (4, 7)
    shared = [bits for bits in found.known.splits() if bits != TRAIN]
    assert shared == [TRAIN | HELD_OUT]


def test_strange_images_and_texts(records):
    (records / 'image' / '1.jpg').write_bytes(
        jpeg(Image.new('RGB', (200, 20)))
    )
    (records / 'filter_cap.json').write_text(
        '[{"image_id": 1, "caption": "."}, {"image_id": 1}]'
    )
    kinds = sorted(problem.kind for problem in scan(records).problems)
    assert kinds == ['aspect', 'blank', 'empty', 'invalid', 'tiny']


def test_images_of_one_colour(records):
    grey = Image.new('RGB', (64, 48), (127, 128, 129))
    (records / 'image' / '1.jpg').write_bytes(jpeg(grey))
    grey.putpixel((9, 9), (140, 128, 129))
    grey.save(records / 'image' / '2.jpg', 'PNG')
    blank = [p.name for p in scan(records).problems if p.kind == 'blank']
    assert blank == ['image/1.jpg']


def test_samples_of_each_shard(tmp_path):
    samples = {
        'a': pair(1, 'a dog'),
        'b': dict(jpg=b'<html>', json=b'{"caption": "a cat"}'),
        'c': dict(jpg=jpeg(noise(3))),
        'd': dict(json=b'{"caption": "a bird"}'),
    }
    shard = str(write_shard(tmp_path / '0.tar', samples))
    found = scan(shard)
    assert (found.shards, found.usable) == ({shard: 4}, {shard: 1})


def test_images_without_texts(records):
    (records / 'filter_cap.json').unlink()
    found = scan(records)
    assert sum(p.kind == 'no-text' for p in found.problems) == 4


def test_samples_are_drawn_from_all_records(records):
    path = records / 'filter_cap.json'
    path.write_text('{"image_id": 1, "caption": "a text"}\n' * 200)
    found = scan(records, num_samples=10)
    assert len(found.samples) == 10
    assert scan(records, num_samples=0).samples == []


def test_what_was_read_before_a_stop_remains(records):
    found = Scan(perceptual=False)

    class Stop(Exception):
        pass

    def stop(number):
        if found.num_records == 2:
            raise Stop

    (part,) = find_data([str(records)]).parts
    try:
        found.read(part, on_records=stop)
    except Stop:
        pass
    assert found.num_records == found.known.count_images() == 2
