# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Ids of image files: absolute paths, names and numbers of COCO."""

import pytest

from minigpt4.images.image_ids import ImageIds, id_forms, image_id


@pytest.mark.parametrize(
    ('name', 'expected'),
    [
        ('000000000139.jpg', '139'),
        ('COCO_val2014_000000000139.jpg', '139'),
        ('a7.png', 'a7'),
        ('cat.png', 'cat'),
        ('b8.png', 'b8'),
        ('COCO_train2017_139.jpg', '139'),
        ('IMG_139.jpg', 'IMG_139'),
    ],
)
def test_the_id_of_an_image_file(name, expected):
    assert image_id(f'folder/{name}', {'139': [], 'a7': []}) == expected


def test_absolute_paths_come_first(tmp_path):
    file, link = tmp_path / '7.jpg', tmp_path / 'link.jpg'
    file.touch()
    link.symlink_to(file)
    known = {str(file): [], '7': []}
    assert image_id(file, known) == image_id(link, known) == str(file)
    assert image_id('elsewhere/7.jpg', known) == '7'


@pytest.mark.parametrize('known', ['139', '000000000139', '139.jpg', 'a/139'])
def test_an_image_is_found_by_any_form_of_its_id(known):
    ids = ImageIds([known, '285'])
    for form in (
        139,
        139.0,  # as pandas writes it
        '139',
        '000000000139',
        '000000000139.JPG',
        'COCO_val2014_000000000139.jpg',
        'val2014/COCO_val2014_000000000139',
    ):
        assert ids.find(form) == known
    for other in (
        140,
        139.5,
        None,
        True,
        '1390',
        'COCO_139',
        '139.v2',
        '',
        '1' * 9999,
        '\0',
    ):
        assert ids.find(other) is None


def test_a_form_of_two_images_finds_neither():
    ids = ImageIds(['a/139.jpg', 'b/139.jpg', '0285', '00285'])
    assert ids.find('139') is ids.find(139) is ids.find('285') is None
    assert ids.find('a/139.jpg') == 'a/139.jpg'
    assert ids.find('0285') == '0285'
    ids = ImageIds(['139', '0139'])
    assert ids.find('139.png') == '139'  # the id itself
    assert ids.find('0139.png') == '0139'


def test_absolute_paths_have_no_other_form(tmp_path):
    file, link = tmp_path / '7.jpg', tmp_path / 'link.jpg'
    file.touch()
    link.symlink_to(file)
    ids = ImageIds([str(file), '8'])
    assert ids.find(file) == ids.find(link) == str(file)
    assert ids.find('7') is None
    assert ids.find('/elsewhere/8.jpg') == '8'
    assert ids.find('\ud800') is ids.find('\0') is None
    assert ImageIds([]).find('7') is None


def test_a_suffix_that_is_no_image_remains():
    assert ImageIds(['photo']).find('photo.v1') is None
    assert id_forms('a/photo.v1.png') == ['a/photo.v1.png', 'photo.v1']
    assert id_forms('007') == ['007', '7']
