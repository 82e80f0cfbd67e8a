# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
import pytest
from tests.data_sets import jpeg, noise

from minigpt4.data_tools.duplicates import (
    image_groups,
    image_problems,
    text_problems,
)
from minigpt4.data_tools.find_data import find_data
from minigpt4.data_tools.scan import HELD_OUT, Scan


def write(folder, images, captions=None):
    folder.mkdir()
    for name, data in images.items():
        (folder / f'{name}.jpg').write_bytes(data)
        text = (captions or {}).get(name, f'text of {name}')
        (folder / f'{name}.txt').write_text(text)
    return folder


def scan(folder, split=None, perceptual=False, compared_to=None):
    found = Scan(perceptual=perceptual, compared_to=compared_to)
    for part in find_data([str(folder)]).parts:
        found.read(part, split=split)
    return found


def problems(found, distance=0):
    groups = image_groups(found.known, distance)
    return [
        (p.kind, p.name, p.number)
        for p in (
            *image_problems(groups, found.known),
            *text_problems(found.known),
        )
    ]


def test_equal_files_and_texts(tmp_path):
    one = jpeg(noise(1))
    images = dict(a=one, b=jpeg(noise(2)), c=one, d=one)
    captions = dict(a='A dog.', b='a  DOG.', c='a cat', d='a cow')
    found = scan(write(tmp_path / 'x', images, captions))
    assert problems(found) == [
        ('duplicate-images', 'a.jpg', 2),
        ('duplicate-texts', 'x: a', 1),
    ]


def test_overlap_with_other_data(tmp_path):
    one, two = jpeg(noise(1)), jpeg(noise(2))
    train = scan(write(tmp_path / 'x', dict(a=one, b=two)))
    assert problems(train) == []
    test = write(tmp_path / 'y', dict(a=jpeg(noise(3)), c=two, d=two))
    scan(test, HELD_OUT, compared_to=train)
    assert problems(train) == [
        ('overlap', 'b.jpg', 1),
        ('overlap-texts', 'x: a', 1),
    ]
    assert train.known.count_images() == train.known.count_texts() == 2


def test_the_same_file_in_both(tmp_path):
    folder = write(tmp_path / 'x', dict(a=jpeg(noise(1))))
    found = scan(folder)
    scan(folder, HELD_OUT, compared_to=found)
    assert ('overlap', 'a.jpg', 1) in problems(found)


def test_similar_images(tmp_path):
    pytest.importorskip('imagehash')
    pytest.importorskip('scipy')
    images = dict(
        a=jpeg(noise(1, 300, 200)),
        b=jpeg(noise(2, 300, 200)),
        c=jpeg(noise(1, 280, 190)),
    )
    found = scan(write(tmp_path / 'x', images), perceptual=True)
    assert problems(found, distance=4) == [('near-duplicates', 'a.jpg', 1)]
    assert problems(found, distance=0) == []
