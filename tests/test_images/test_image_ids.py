# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Ids of image files: absolute paths, names and numbers of COCO."""

import pytest

from minigpt4.images.image_ids import image_id


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
