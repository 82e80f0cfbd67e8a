# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Folders of photographs with captions."""

import json

import pytest
from PIL import Image

from minigpt4.datasets.photo_folder import describe_skipped, read_photos


def save_image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', (8, 8)).save(path)


def save_captions(path, images, captions):
    """Write a COCO caption file of ``{id: file name}`` and pairs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = dict(
        images=[dict(id=i, file_name=name) for i, name in images.items()],
        annotations=[dict(image_id=i, caption=c) for i, c in captions],
    )
    path.write_text(json.dumps(content))


def test_coco_with_captions_in_annotations(tmp_path):
    for i in (7, 12):
        save_image(tmp_path / f'val2017/{i:012d}.jpg')
    save_captions(
        tmp_path / 'annotations/captions_val2017.json',
        {7: '000000000007.jpg', 12: '000000000012.jpg', 13: 'gone.jpg'},
        [(7, 'a dog '), (12, 'a cat'), (7, 'a\nblack dog'), (13, 'x')],
    )
    (tmp_path / 'annotations/instances_val2017.json').write_text('{}')
    photos = read_photos(tmp_path)
    assert photos.test == []
    assert [(p.name, p.captions) for p in photos.train] == [
        ('12', ('a cat',)),
        ('7', ('a dog', 'a black dog')),
    ]
    assert photos.train[1].file == tmp_path / 'val2017/000000000007.jpg'
    assert describe_skipped(photos.skipped) == (
        '1 captions: image does not exist'
    )


def test_training_and_test_files_keep_their_photographs_apart(tmp_path):
    for name in ('train/1.jpg', 'train/2.jpg', 'test/3.jpg', 'test/2.jpg'):
        save_image(tmp_path / name)
    save_captions(
        tmp_path / 'captions_train.json',
        {1: '1.jpg', 2: '2.jpg'},
        [(1, 'a'), (2, 'b')],
    )
    save_captions(
        tmp_path / 'captions_test.json',
        {3: '3.jpg', 2: '2.jpg'},
        [(3, 'c'), (2, 'b')],
    )
    photos = read_photos(tmp_path)
    assert [p.name for p in photos.train] == ['1']
    assert [p.name for p in photos.test] == ['2', '3']
    assert 'in the training and the test file' in describe_skipped(
        photos.skipped
    )


def test_text_files_next_to_images_of_any_suffix(tmp_path):
    save_image(tmp_path / 'a dog.JPG')
    save_image(tmp_path / 'trip/b.png')
    save_image(tmp_path / 'c.png')
    (tmp_path / 'a dog.txt').write_bytes(
        b'\xef\xbb\xbfa dog\r\n\r\nit runs\r\n'
    )
    (tmp_path / 'trip/b.txt').write_text('\xe9t\xe9', encoding='latin-1')
    photos = read_photos(tmp_path)
    assert [(p.name, p.captions) for p in photos.train] == [
        ('a dog', ('a dog', 'it runs'))
    ]
    assert describe_skipped(photos.skipped) == (
        '1 captions: image has no text file; '
        '1 captions: text file is not UTF-8'
    )


def test_bad_records_are_counted(tmp_path):
    save_image(tmp_path / '1.jpg')
    path = tmp_path / 'captions.json'
    records = [
        dict(image_id=1, caption='fine'),
        dict(image_id=1, caption=None),
        dict(caption='no image'),
        'text',
        dict(image_id=1, caption='bad \x00 character'),
    ]
    path.write_text(json.dumps(records))
    photos = read_photos(tmp_path)
    assert photos.train[0].captions == ('fine',)
    assert photos.skipped == {
        'caption is not valid text': 2,
        'record has no image_id': 2,
    }


@pytest.mark.parametrize('case', ['missing', 'empty', 'images only'])
def test_folder_without_captions_is_refused(tmp_path, case):
    folder = tmp_path / 'photos'
    if case != 'missing':
        folder.mkdir()
    if case == 'images only':
        save_image(folder / 'a.jpg')
    with pytest.raises(FileNotFoundError) as error:
        read_photos(folder)
    message = str(error.value)
    assert str(folder) in message
    if case != 'missing':
        assert 'dog.txt next to dog.jpg' in message and 'COCO' in message
