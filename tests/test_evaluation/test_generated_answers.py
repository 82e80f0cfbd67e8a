# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The images that a model is asked about."""

import pytest
from PIL import Image

from minigpt4.evaluation.generated_answers import folder_images


def test_images_of_a_folder_and_of_a_list(tmp_path):
    folder = tmp_path / 'photos'
    (folder / 'more').mkdir(parents=True)
    files = [str(folder / 'a.png'), str(folder / 'more' / 'b.png')]
    for file in files:
        Image.new('RGB', (4, 4)).save(file)
    assert folder_images(folder) == files
    names = tmp_path / 'names.txt'
    names.write_text(f'{files[1]}\n')
    assert folder_images(names) == files[1:]


@pytest.mark.parametrize('name', ['missing', 'missing.txt', 'image.png'])
def test_neither_folder_nor_list_is_refused(tmp_path, name):
    (tmp_path / 'image.png').touch()
    with pytest.raises(FileNotFoundError, match='give the folder of the'):
        folder_images(tmp_path / name)


def test_a_list_without_images_is_refused(tmp_path):
    (tmp_path / 'names.txt').write_text('\n')
    with pytest.raises(ValueError, match='names no images'):
        folder_images(tmp_path / 'names.txt')
