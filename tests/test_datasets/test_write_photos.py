# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The data of both stages from photographs with captions."""

import json
from pathlib import Path

import pytest
from PIL import Image

from minigpt4.datasets import InstructionDataset
from minigpt4.datasets.photo_folder import Photo, PhotoFolder
from minigpt4.datasets.skip_summary import SkipSummary
from minigpt4.datasets.write_photos import write_photos


@pytest.fixture
def photos(tmp_path):
    """Thirty photographs with two captions each."""
    found = []
    for i in range(30):
        file = tmp_path / f'photos/{i:02d}.jpg'
        file.parent.mkdir(exist_ok=True)
        Image.new('RGB', (8, 8)).save(file)
        long = ' '.join(f'word{i}{j}' for j in range(50))
        found.append(Photo(f'{i:02d}', file, (f'a dog {i}', long)))
    return PhotoFolder(found, [], SkipSummary())


def read(path: Path) -> dict:
    return json.loads(path.read_text('utf-8'))


def test_a_tenth_is_held_out_by_the_seed(photos, tmp_path):
    first = write_photos(photos, tmp_path / 'a')
    again = write_photos(photos, tmp_path / 'b')
    other = write_photos(photos, tmp_path / 'c', seed=1)
    assert first == again and first.test != other.test
    assert len(first.test) == 3 and len(first.train) == 27
    assert not {p.name for p in first.test} & {p.name for p in first.train}


def test_named_test_photographs_are_kept(photos, tmp_path):
    given = photos._replace(train=photos.train[:20], test=photos.train[20:])
    assert write_photos(given, tmp_path / 'out') == given


def test_files_are_read_by_the_dataset(photos, tmp_path):
    out = tmp_path / 'out'
    divided = write_photos(photos, out)
    captions = InstructionDataset('captions_train.json', str(out), '')
    assert len(captions) == 54
    record = captions.records[1]
    assert record['turns'][0].answer == divided.train[0].captions[1]
    assert record['images'] == [str(divided.train[0].file)]
    descriptions = InstructionDataset('descriptions_train.json', str(out), '')
    assert len(descriptions) == 27
    answer = descriptions.records[0]['turns'][0].answer
    assert answer.count('.') == 2 and 'A dog' in answer
    test = read(out / 'captions_test.json')
    assert len(test['images']) == 3 and len(test['annotations']) == 6


def test_two_photographs_are_too_few(photos, tmp_path):
    few = photos._replace(train=photos.train[:2])
    with pytest.raises(ValueError, match='2 photographs can .* at least 3'):
        write_photos(few, tmp_path / 'o')
    three = photos._replace(train=photos.train[:3])
    assert len(write_photos(three, tmp_path / 'o').test) == 2


def test_one_named_test_photograph_is_too_few(photos, tmp_path):
    given = photos._replace(train=photos.train[1:], test=photos.train[:1])
    divided = write_photos(given, tmp_path / 'out')
    assert len(divided.test) == 3 and divided.test[0] == given.test[0]
    assert sorted(divided.train + divided.test) == photos.train
    few = given._replace(train=photos.train[1:2])
    with pytest.raises(ValueError, match='2 photographs can'):
        write_photos(few, tmp_path / 'o')


def test_photographs_of_one_name_keep_their_captions(photos, tmp_path):
    """Their ids in the files differ."""
    same = [photo._replace(name='0') for photo in photos.train]
    out = tmp_path / 'out'
    divided = write_photos(photos._replace(train=same), out)
    data = InstructionDataset('captions_train.json', str(out), '')
    assert [
        (record['images'][0], record['turns'][0].answer)
        for record in data.records
    ] == [(str(p.file), text) for p in divided.train for text in p.captions]
