# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Images with reference captions, from files of several layouts."""

import json
from pathlib import Path

import pytest

from minigpt4.datasets import InstructionDataset
from minigpt4.evaluation.captioned_images import (
    read_captioned_images,
    read_references,
)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / 'images').mkdir()
    for name in 'ab':
        (tmp_path / 'images' / f'{name}.jpg').touch()
    return tmp_path


def write(folder, data):
    path = folder / 'captions.json'
    path.write_text(json.dumps(data))
    return path


def test_images_are_sorted_and_have_all_captions(folder):
    path = write(
        folder,
        [
            dict(image='b.jpg', caption='one'),
            dict(image='a', question='what?', answer='a cat'),
            dict(image='b.jpg', caption=' two  words \n'),
            dict(image='c.jpg', caption='absent'),
            dict(image=['a.jpg', 'b.jpg'], question='both?', answer='yes'),
            dict(image='a.jpg'),
        ],
    )
    data = read_captioned_images(path, folder / 'images')
    found = {
        image.name: [(c.id, c.question, c.text) for c in image.captions]
        for image in data.images
    }
    assert found == {
        'a': [(1, 'what?', 'a cat')],
        'b.jpg': [(0, '', 'one'), (2, '', 'two words')],
        'c.jpg': [(3, '', 'absent')],
    }
    assert list(found) == sorted(found)
    assert data.images[0].file == str(folder / 'images' / 'a.jpg')
    assert len(data.invalid) == 2
    assert 'record 4 of captions.json has 2 images' in data.invalid[0]


def test_a_table_is_a_file_of_captions(folder):
    (folder / 'captions.csv').write_text('image,caption\na.jpg,a cat\n')
    data = read_captioned_images(folder / 'captions.csv', folder / 'images')
    assert data.images[0].captions[0].text == 'a cat'


def test_the_digest_depends_on_names_and_captions(folder):
    digests = set()
    for caption in ('one', 'two'):
        path = write(
            folder, [dict(image='a.jpg', caption=caption, id=caption)]
        )
        data = read_captioned_images(path, folder / 'images')
        digests.add(data.digest())
        assert len(data.digest()) == 16
    assert len(digests) == 2


def test_references_are_found_by_the_name_of_the_file(folder):
    table = dict(
        images=[dict(id=7, file_name='train/000007.jpg')],
        annotations=[
            dict(id=1, image_id=7, caption='one'),
            dict(id=2, image_id=7, caption='two'),
        ],
    )
    assert read_references(write(folder, table)) == {'000007': ['one', 'two']}


def test_references_of_images_of_one_name(folder, tmp_path):
    def annotations(*names):
        return [dict(image_id=n, caption=f'of {n}') for n in names]

    path = write(folder, annotations('a/1.jpg', 'b/1.jpg'))
    with pytest.raises(ValueError, match='a/1.jpg and b/1.jpg are two images'):
        read_references(path)
    names = [f'{tmp_path}/{letter}/1.jpg' for letter in 'ab']
    found = read_references(write(folder, annotations(*names)))
    assert found == {name: [f'of {name}'] for name in names}


def test_a_missing_file_of_references_is_refused(folder):
    with pytest.raises(FileNotFoundError, match='captions.json does not'):
        read_references(folder / 'captions.json')


def test_captions_of_real_photographs_are_read(photos):
    file = photos / 'captions_test.json'
    data = read_captioned_images(file, photos / 'test', limit=50)
    assert len(data.images) == 50
    assert not data.invalid and not data.uncaptioned
    assert all(len(image.captions) >= 5 for image in data.images)
    assert all(Path(image.file).is_file() for image in data.images)
    dataset = InstructionDataset(
        str(file), image_folder=str(photos / 'test'), draw_caption=True
    )
    assert len(dataset) == 200
    drawn = {dataset[0, 200 * i]['turns'][0].answer for i in range(5)}
    assert len(drawn) == 5
