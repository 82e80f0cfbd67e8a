# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Images of folders, globs, lists and standard input."""

import json
import os
import unicodedata
from pathlib import Path

import pytest

from minigpt4.captioning.image_lists import ImageEntry
from minigpt4.captioning.image_sources import find_images


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The current folder, with files of several types."""
    monkeypatch.chdir(tmp_path)
    Path('images/sub').mkdir(parents=True)
    for name in (
        'images/1.png',
        'images/0.png',
        'images/.hidden.png',
        'images/notes.txt',
        'images/sub/Ünï cödé.PNG',
        'no_suffix',
    ):
        Path(name).touch()


def names(*sources, recursive=False):
    return [entry.image for entry in find_images(sources, recursive)]


def test_a_folder_has_its_images_by_name():
    assert names('images') == ['images/0.png', 'images/1.png']
    assert names('./images/', '.', recursive=True) == [
        'images/0.png',
        'images/1.png',
        'images/sub/Ünï cödé.PNG',
    ]


def test_several_sources_have_each_image_once():
    assert names('images/[1].png', 'images', 'no_suffix', 'no_suffix') == [
        'images/1.png',
        'images/0.png',
        'no_suffix',
    ]


def test_lists_and_standard_input_are_read(monkeypatch):
    Path('list.jsonl').write_text(
        json.dumps({'image': 'images/0.png', 'prompt': 'What?'})
        + '\n'
        + json.dumps({'image': 'images/0.png'})
    )
    Path('list.csv').write_text('image,prompt\nimages/1.png,"What?"\n')
    monkeypatch.setattr('sys.stdin', iter(['images/1.png\n', '\n']))
    assert find_images(['list.jsonl', 'list.csv', '-']) == [
        ImageEntry('images/0.png', 'What?'),
        ImageEntry('images/0.png'),
        ImageEntry('images/1.png', 'What?'),
        ImageEntry('images/1.png'),
    ]


@pytest.mark.parametrize(
    'source, message',
    [
        ('nowhere', 'nowhere does not exist; give a folder'),
        ('empty', 'empty has no images .*png.*; --recursive'),
        ('*.gif', 'no file matches .*; give another glob'),
        ('empty.txt', 'names no images; expected one path per line'),
        ('a\0b', 'has a NUL character'),
    ],
)
def test_a_source_without_images_is_refused(source, message):
    Path('empty').mkdir()
    Path('empty.txt').touch()
    with pytest.raises((ValueError, OSError), match=message):
        find_images([source])


def test_a_list_is_a_regular_file():
    os.mkfifo('l.txt')
    with pytest.raises(ValueError, match='l.txt is a FIFO'):
        find_images(['l.txt'])


def test_urls_are_refused_and_a_glob_matches_special_files():
    with pytest.raises(ValueError, match='is an address, not a file'):
        find_images(['https://example.org/a.png'])
    os.mkfifo('f.png')
    assert ImageEntry('f.png') in find_images(['*.png'])


def test_linked_folders_are_searched_once():
    """fastai #2270, pytorch-image-models #334."""
    for name in ('d/x.png', 'other/z.png'):
        Path(name).parent.mkdir()
        Path(name).write_bytes(b'')
    Path('d/link').symlink_to('../other')
    Path('d/loop').symlink_to('../d')
    found = [entry.image for entry in find_images(['d'], True)]
    assert found == ['d/x.png', 'd/link/z.png']
    assert len(find_images(['d'])) == 1


@pytest.mark.parametrize('form, other', [('NFC', 'NFD'), ('NFD', 'NFC')])
def test_a_name_is_found_in_another_unicode_normalisation(form, other):
    """TheLastGimbus/GooglePhotosTakeoutHelper #247: files of macOS."""
    name = unicodedata.normalize(form, 'été.png')
    Path(name).touch()
    Path('list.txt').write_text(unicodedata.normalize(other, name))
    assert names('list.txt') == [name]
