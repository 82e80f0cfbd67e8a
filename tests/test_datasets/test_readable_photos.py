# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Photographs whose images cannot be read are skipped."""

import pytest
from PIL import Image

from minigpt4.datasets.photo_folder import Photo, PhotoFolder
from minigpt4.datasets.readable_photos import keep_readable
from minigpt4.datasets.skip_summary import SkipSummary


@pytest.fixture
def photos(tmp_path):
    """Five photographs, three of which cannot be read."""
    found = []
    for name in ('a', 'b', 'cut', 'empty', 'text'):
        file = tmp_path / f'{name}.jpg'
        Image.effect_noise((64, 64), 90).save(file)
        found.append(Photo(name, file, ('a dog',)))
    cut = found[2].file
    cut.write_bytes(cut.read_bytes()[:-500])
    found[3].file.write_bytes(b'')
    found[4].file.write_text('no image')
    return PhotoFolder(found, [], SkipSummary())


def test_unreadable_images_are_named(photos):
    kept = keep_readable(photos)
    assert [p.name for p in kept.train] == ['a', 'b']
    (line,) = kept.skipped.lines()
    assert line.startswith('3 images not readable (')
    for photo in photos.train[2:]:
        assert f'{photo.file}: ' in line
    assert 'truncated' in line and 'empty' in line


def test_held_out_photographs_replace_those_to_train_with(photos):
    divided = photos._replace(train=photos.train[2:], test=photos.train[:2])
    kept = keep_readable(divided)
    assert [p.name for p in kept.train] == ['a', 'b'] and kept.test == []
