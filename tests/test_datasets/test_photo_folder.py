# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Folders of photographs with captions."""

import json

import pytest
from PIL import Image

from minigpt4.datasets.photo_folder import read_photos


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
    assert photos.skipped.lines() == [
        '1 image without a file (gone.jpg of captions_val2017.json)'
    ]


def test_training_and_test_files_keep_their_photographs_apart(tmp_path):
    for name in ('train/1.jpg', 'train/2.jpg', 'test/3.jpg', 'test/2.jpg'):
        save_image(tmp_path / name)
    save_captions(
        tmp_path / 'captions_train.json',
        {1: '1.jpg', 2: 'test/2.jpg'},
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
    assert photos.skipped.lines() == [
        '1 image without a caption (train/2.jpg)',
        '1 image not used to train, being held out too (test/2.jpg)',
    ]


def test_a_link_to_itself_does_not_end_the_reading(tmp_path):
    save_image(tmp_path / 'a.jpg')
    (tmp_path / 'a.txt').write_text('a dog')
    (tmp_path / 'self.jpg').symlink_to('self.jpg')
    (tmp_path / 'self.txt').write_text('a cat')
    photos = read_photos(tmp_path)
    assert [p.captions for p in (*photos.train, *photos.test)] == [('a dog',)]
    assert photos.skipped.lines() == [
        '1 image a symbolic link that leads to itself (self.jpg)'
    ]


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
    assert photos.skipped.lines() == [
        '1 image without a text file (c.png)',
        '1 text file not in UTF-8 (trip/b.txt: it is not UTF-8 text (byte 0))',
    ]


def test_equal_names_are_different_photographs(tmp_path):
    names = ('0.jpeg', '0.jpg', '0.png', 'a/0.jpg', 'b/0.jpg')
    for name in names:
        save_image(tmp_path / name)
        (tmp_path / name).with_suffix('.txt').write_text(f'of {name[:2]}')
    photos = read_photos(tmp_path)
    assert [p.file for p in photos.train] == [tmp_path / n for n in names]
    assert not photos.skipped
    (tmp_path / '0.txt').write_text('of 0\n\x01')
    (line,) = read_photos(tmp_path).skipped.lines()
    assert line.startswith('1 caption not usable (0.txt line 2 contains')


def test_caption_files_with_the_same_ids(tmp_path):
    for part in 'ab':
        for i in range(2):
            save_image(tmp_path / part / f'{i}.jpg')
        save_captions(
            tmp_path / f'captions_{part}.json',
            {i: f'{i}.jpg' for i in range(2)},
            [(i, f'{part}{i}') for i in range(2)],
        )
    photos = read_photos(tmp_path)
    assert {
        str(p.file.relative_to(tmp_path)): (p.captions, p.sources)
        for p in photos.train
    } == {
        f'{part}/{i}.jpg': ((f'{part}{i}',), (f'captions_{part}.json',))
        for part in 'ab'
        for i in range(2)
    }


def test_captions_of_an_image_in_two_files_are_joined(tmp_path):
    save_image(tmp_path / 'dog.jpg')
    for part, captions in (('a', ['x', 'y', 'x']), ('b', ['y', 'z'])):
        save_captions(
            tmp_path / f'captions_{part}.json',
            {part: 'dog.jpg'},
            [(part, caption) for caption in captions],
        )
    photos = read_photos(tmp_path)
    (photo,) = photos.train
    assert photo.captions == ('x', 'y', 'x', 'z')
    assert photo.sources == ('captions_a.json', 'captions_b.json')
    assert photos.skipped.lines() == [
        '1 caption that another file has for the same image '
        '(dog.jpg in captions_b.json)'
    ]


def test_caption_file_and_text_files_are_both_used(tmp_path):
    for i in range(4):
        save_image(tmp_path / f'{i}.jpg')
    for i in range(3):
        (tmp_path / f'{i}.txt').write_text(f'text {i}')
    save_captions(
        tmp_path / 'captions.json', {0: '0.jpg'}, [(0, 'in the file')]
    )
    photos = read_photos(tmp_path)
    assert [(p.captions, p.sources) for p in photos.train] == [
        (('in the file',), ('captions.json',)),
        (('text 1',), ('text files',)),
        (('text 2',), ('text files',)),
    ]
    assert photos.skipped.lines() == [
        '1 text file not used, as a caption file has the image (0.txt)',
        '1 image without a caption (3.jpg)',
    ]


def test_file_names_that_a_list_cannot_contain(tmp_path):
    for name in ('a\nb', 'tab\t', 'narrow\u202fspace', 'c\u2028d', 'é \udcff'):
        save_image(tmp_path / f'{name}.jpg')
        (tmp_path / f'{name}.txt').write_text('a dog')
    save_image(tmp_path / 'e\rf.jpg')
    save_captions(
        tmp_path / 'captions.json', {1: 'e\rf.jpg'}, [(1, 'x'), (1, 'y')]
    )
    photos = read_photos(tmp_path)
    assert [p.name for p in photos.train] == ['narrow\u202fspace']
    refused, no_caption = photos.skipped.lines()
    assert refused.startswith('5 images with a line break, a control ')
    assert r'(e\rf.jpg; a\nb.jpg; c\u2028d.jpg; 2 more)' in refused
    assert no_caption == r'1 image without a caption (e\rf.jpg)'


@pytest.mark.parametrize(
    ('name', 'folder'),
    [
        ('captions-mine.json', 'mine'),
        ('captions.mine.json', 'mine'),
        ('captions my trip.json', 'my trip'),
        ('captions2017.json', '2017'),
        ('Captions_mine.JSON', 'mine'),
    ],
)
def test_names_of_caption_files(tmp_path, name, folder):
    save_image(tmp_path / folder / '1.jpg')
    save_captions(tmp_path / name, {1: '1.jpg'}, [(1, 'a dog')])
    (photo,) = read_photos(tmp_path).train
    assert photo.file == tmp_path / folder / '1.jpg'


def test_held_out_file_with_another_separator(tmp_path):
    for name in ('train/1.jpg', 'val2017/1.jpg'):
        save_image(tmp_path / name)
    for name in ('train', 'val2017'):
        save_captions(
            tmp_path / f'captions-{name}.json', {1: '1.jpg'}, [(1, name)]
        )
    photos = read_photos(tmp_path)
    assert [p.captions for p in photos.train] == [('train',)]
    assert [p.captions for p in photos.test] == [('val2017',)]


@pytest.mark.parametrize('key', ['image', 'file_name'])
def test_records_that_name_their_image(tmp_path, key):
    save_image(tmp_path / 'images/dog.jpg')
    records = [{key: 'dog.jpg', 'caption': 'a'}, {key: 'dog', 'caption': 'b'}]
    (tmp_path / 'captions.json').write_text(json.dumps(records))
    (photo,) = read_photos(tmp_path).train
    assert photo.captions == ('a', 'b')
    assert photo.file == tmp_path / 'images/dog.jpg'


def test_an_id_does_not_leave_the_folder(tmp_path):
    folder = tmp_path / 'photos'
    for path in (tmp_path / '1.jpg', folder / '2.jpg'):
        save_image(path)
    records = [dict(image_id=i, caption='a') for i in ('../1', '2')]
    (folder / 'captions.json').write_text(json.dumps(records))
    photos = read_photos(folder)
    assert [photo.file for photo in photos.train] == [folder / '2.jpg']
    assert photos.skipped.lines() == [
        '1 record without a usable image_id, image or file_name '
        '(captions.json record 0)'
    ]


def test_bad_records_are_named(tmp_path):
    save_image(tmp_path / '1.jpg')
    path = tmp_path / 'captions.json'
    records = [
        dict(image_id=1, caption='fine'),
        dict(image_id=1, caption=None),
        dict(image_id=1),
        dict(caption='no image'),
        'text',
        dict(image_id=1, caption='bad \x00 character'),
        dict(image_id=1, caption=' '),
        dict(image_id=1, caption=5),
        dict(image_id=2, caption='a'),
        dict(image_id=2, caption='b'),
    ]
    path.write_text(json.dumps(records))
    photos = read_photos(tmp_path)
    assert photos.train[0].captions == ('fine',)
    lines = photos.skipped.lines()
    assert lines[:3] == [
        '2 records without a caption (captions.json record 1; captions.json '
        'record 2)',
        '1 record without a usable image_id, image or file_name '
        '(captions.json record 3)',
        '1 record not in the form of a JSON object (captions.json record 4)',
    ]
    assert lines[3].startswith(
        '3 captions not usable (captions.json record 5 contains '
    )
    assert 'captions.json record 7 is a number' in lines[3]
    assert lines[4:] == ['1 image without a file (2 of captions.json)']


def test_damaged_caption_file_is_refused(tmp_path):
    save_image(tmp_path / '1.jpg')
    path = tmp_path / 'captions.json'
    path.write_text('[{"image_id": 1 "caption": "x"}]')
    with pytest.raises(ValueError, match=r'captions.json .*line 1, .*correct'):
        read_photos(tmp_path)


def test_table_of_captions(tmp_path):
    (tmp_path / 'captions.csv').write_text('image,caption\na.jpg,a dog\n')
    save_image(tmp_path / 'a.jpg')
    advice = 'captions.csv is read by "minigpt4 data import .*captions.csv'
    with pytest.raises(FileNotFoundError, match=advice):
        read_photos(tmp_path)
    (tmp_path / 'a.txt').write_text('a dog')
    assert read_photos(tmp_path).skipped.lines() == [
        '1 file not read here, but by "minigpt4 data import" (docs/data.md) '
        '(captions.csv)'
    ]


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
