# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Reference captions are found by the ids of an image."""

import json

import pytest

from minigpt4.evaluation.caption_references import CaptionReferences


@pytest.fixture
def read(tmp_path):
    def read(content) -> CaptionReferences:
        path = tmp_path / 'captions.json'
        path.write_text(json.dumps(content))
        return CaptionReferences(path)

    return read


def coco(**files: str) -> dict:
    return dict(
        images=[
            dict(id=int(key[1:]), file_name=name)
            for key, name in files.items()
        ],
        annotations=[
            dict(id=i, image_id=int(key[1:]), caption=f'of {name} {n}')
            for i, (key, name) in enumerate(files.items())
            for n in range(2)
        ],
    )


def test_ids_of_the_table_and_names_of_files_find_an_image(read):
    found = read(coco(_139='000000000139.jpg', _5='dog.jpg'))
    assert found.captions == {
        '139': ['of 000000000139.jpg 0', 'of 000000000139.jpg 1'],
        '5': ['of dog.jpg 0', 'of dog.jpg 1'],
    }
    for id_ in (139, '139', '000000000139', '000000000139.jpg'):
        assert found.find(id_) == '139'
    assert found.find('dog') == found.find(5) == '5'
    assert found.find('cat') is None and 'cat' not in found
    assert found.find_file('/photos/COCO_val2014_000000000139.jpg') == '139'
    assert found.find_file('/photos/dog.png') == '5'
    assert found.find_file('/photos/cat.png') is None


def test_an_id_of_the_table_precedes_a_name(read):
    found = read(coco(_1='000000000002.jpg', _2='000000000001.jpg'))
    assert found.find(1) == '1'
    assert found.find('000000000001') == '2'


def test_names_find_images_of_a_file_without_table(read):
    found = read(
        [
            dict(image='a/x.jpg', caption='one'),
            dict(image='COCO_val2014_000000000007.jpg', caption='two'),
            dict(image='/data/y.jpg', caption='three'),
            dict(image='a/x.jpg', caption='four'),
            dict(image='a/x.jpg'),
        ]
    )
    assert found.captions[found.find('x')] == ['one', 'four']
    assert found.captions[found.find(7)] == ['two']
    assert found.captions[found.find('/data/y.jpg')] == ['three']
    assert found.find('y') is None
    assert len(found.invalid) == 1


def test_an_id_of_two_images_finds_none(read):
    found = read(
        [
            dict(image='a/x.jpg', caption='one'),
            dict(image='b/x.jpg', caption='two'),
        ]
    )
    assert found.find('x') is None
    assert found.captions[found.find('b/x.jpg')] == ['two']


def test_the_digest_depends_on_the_captions_only(read):
    first = read(coco(_1='a.jpg', _2='b.jpg'))
    assert first.digest() == read(coco(_2='b.jpg', _1='a.jpg')).digest()
    assert first.digest() != read(coco(_1='a.jpg', _2='c.jpg')).digest()


@pytest.mark.parametrize('name', ['000000000139.jpg', 'COCO_val2014_139.jpg'])
def test_every_form_of_an_id_is_found(read, name):
    found = read(coco(_139=name, _2='b.jpg'))
    for form in (139, '139', '0139', '000000000139', 'COCO_train2014_139.png'):
        assert found.find(form) == '139'
    assert found.find('1390') is found.find('a139') is None
