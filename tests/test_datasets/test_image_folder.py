# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Image files are found by the names in records."""

import unicodedata

import pytest

from minigpt4.datasets.image_folder import ImageFolder


@pytest.fixture
def find(tmp_path):
    """Function of the files in a folder and a name to the found file."""

    def find(files, name):
        for file in files:
            path = tmp_path / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        found = ImageFolder(tmp_path).find(name)
        return found.removeprefix(f'{tmp_path}/')

    return find


@pytest.mark.parametrize(
    'suffix', 'jpg JPG Jpg jpeg JPEG png PNG webp WebP bmp BMP tiff'.split()
)
@pytest.mark.parametrize('name', ['IMG_6003', 'v1.2 of 7', '22.05', 'a b'])
def test_suffix_in_upper_case_is_found(find, name, suffix):
    """lora-training #9, kohya_ss #217."""
    file = f'{name}.{suffix}'
    assert find([file], name) == file
    assert find([], file.lower() if name == 'a b' else file) == file


@pytest.mark.parametrize(
    'files, name, expected',
    [
        (['a', 'a.jpg'], 'a', 'a'),
        (['a.png', 'a.jpg'], 'a', 'a.jpg'),
        (['a.PNG', 'a.JPG', 'a.webp'], 'a', 'a.webp'),
        (['a.PNG', 'a.JPG'], 'a', 'a.JPG'),
        (['a.jpg', 'a.JPG'], 'a.JPG', 'a.JPG'),
        (['a.Jpg', 'a.JPG'], 'a.jpg', 'a.JPG'),
        (['A.jpg'], 'a', 'a'),
        (['A.jpg', 'a.JPG'], 'a', 'a.JPG'),
        (['a.png'], 'a.jpg', 'a.jpg'),
        (['a.txt'], 'a', 'a'),
        (['coco/train/1.JPG'], 'coco/train/1.jpg', 'coco/train/1.JPG'),
        (['coco/train/1.jpg'], 'coco\\train\\1.jpg', 'coco/train/1.jpg'),
        (['coco/1.JPG'], 'coco\\1', 'coco/1.JPG'),
        (['b\\c.jpg'], 'b\\c', 'b\\c.jpg'),
    ],
)
def test_first_existing_suffix_is_used(find, files, name, expected):
    assert find(files, name) == expected


@pytest.mark.parametrize('form', ['NFC', 'NFD'])
@pytest.mark.parametrize('end', ['', '.jpg'])
def test_name_in_another_normalisation_is_found(find, form, end):
    other = 'NFD' if form == 'NFC' else 'NFC'
    file = unicodedata.normalize(form, 'Müller é.jpg')
    name = unicodedata.normalize(other, 'Müller é') + end
    assert find([file], name) == file


def test_exact_normalisation_is_preferred(find):
    files = [unicodedata.normalize(f, 'é.JPG') for f in ('NFC', 'NFD')]
    for file in files:
        assert find(files, file.removesuffix('.JPG')) == file


def test_absolute_names_and_file_urls_are_found(find, tmp_path):
    path = tmp_path / 'c d.jpg'
    assert find(['c d.jpg'], str(path)) == 'c d.jpg'
    assert find([], str(path.with_suffix(''))) == 'c d.jpg'
    assert find([], f'file://{tmp_path}/c%20d.jpg') == 'c d.jpg'


@pytest.mark.parametrize('name', ['.', '..', '/', 'no/such', 'a' * 300, 'a\0'])
def test_path_of_a_missing_file_is_returned(tmp_path, name):
    folder = ImageFolder(tmp_path)
    assert folder.find(name) == str(tmp_path / name)
