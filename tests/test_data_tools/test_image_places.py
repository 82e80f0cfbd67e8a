# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Images are found by the names that data sets have."""

import unicodedata
from pathlib import Path

import pytest

from minigpt4.data_tools.image_places import ImagePlaces


@pytest.fixture
def place(tmp_path):
    """Function that creates a file below the folder."""

    def place(name):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        return str(path)

    return place


@pytest.mark.parametrize(
    ('file', 'name'),
    [
        ('images/a.jpg', 'a.jpg'),
        ('images/a.JPG', 'a'),
        ('b/a.jpg', 'b\\a.jpg'),
        ('a.jpg', 'C:\\Users\\x\\a.jpg'),
        ('images/a.jpg', '/data/of/others/a.jpg'),
        ('val2017/000000000139.jpg', '139'),
        ('val2017/000000000139.jpg', '139.jpg'),
        ('val2014/COCO_val2014_000000000139.jpg', '139'),
        ('train2017/000000000139.jpg', 'train2017/000000000139.jpg'),
        (unicodedata.normalize('NFD', 'é.jpg'), 'é.jpg'),
    ],
)
def test_names(tmp_path, place, file, name):
    expected = place(file)
    assert ImagePlaces(tmp_path / 'a.json').find(name) == expected


def test_images_next_to_annotations(tmp_path, place):
    source = Path(place('annotations/captions_val2017.json'))
    expected = place('val2017/1.jpg')
    place('train2017/1.jpg')
    assert ImagePlaces(source).find('1.jpg') == expected
    assert ImagePlaces(tmp_path).find('1.jpg') is not None


def test_a_given_folder_is_searched(tmp_path, place):
    place('images/1.jpg')
    expected = place('mine/1.jpg')
    places = ImagePlaces(tmp_path / 'a.json', tmp_path / 'mine')
    assert places.find('1.jpg') == expected
    assert places.find('2.jpg') is None
    assert places.find(expected) == expected


@pytest.mark.parametrize(
    'name',
    [
        'coco/train2017/1.jpg',
        'sub\\1.jpg',
        '../mine/1.jpg',
        '~/mine/1.jpg',
        'file:///data/1.jpg',
    ],
)
def test_names_below_other_folders(tmp_path, place, name, monkeypatch):
    expected = place('mine/1.jpg')
    monkeypatch.setenv('HOME', str(tmp_path))
    source = Path(place('lists/a.csv'))
    places = ImagePlaces(source, tmp_path / 'mine')
    assert places.find(name) == expected
    assert places.conflicts() == {}


def test_a_last_part_that_is_ambiguous(tmp_path, place):
    first, other = place('1.jpg'), place('images/1.jpg')
    place('2.jpg')
    places = ImagePlaces(tmp_path / 'a.csv')
    with pytest.raises(ValueError, match=f'last part: {first}, {other}'):
        places.find('/data/1.jpg')
    assert places.find('a/2.jpg') == places.find('b/2.jpg')
    ((file, reason),) = places.conflicts().items()
    assert file == str(tmp_path / '2.jpg')
    assert "'a/2.jpg' and 'b/2.jpg' both give" in reason
