# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Thumbnails and data URLs of images."""

import io

import pytest
from PIL import Image

from minigpt4.images.read import SampleError, read_image
from minigpt4.images.thumbnail import (
    data_url,
    thumbnail,
    thumbnail_of_bytes,
    thumbnail_of_file,
)


def decode(data):
    return Image.open(io.BytesIO(data))


def test_thumbnail_keeps_the_aspect_ratio():
    small = decode(thumbnail(Image.new('RGB', (300, 150), 'red'), 100))
    assert (small.format, small.size) == ('JPEG', (100, 50))
    assert decode(thumbnail(Image.new('RGB', (30, 15)), 100)).size == (30, 15)


@pytest.mark.parametrize('name', ['image.jpg', 'image.png'])
def test_thumbnail_of_file(tmp_path, name):
    path = tmp_path / name
    Image.new('RGB', (800, 400), (200, 30, 30)).save(path)
    small = decode(thumbnail_of_file(path, 64))
    assert small.size == (64, 32)
    data = thumbnail_of_bytes(path.read_bytes(), name, 64)
    assert data == thumbnail_of_file(path, 64)
    pixel = small.getpixel((30, 15))
    assert all(abs(a - b) < 6 for a, b in zip(pixel, (200, 30, 30)))


@pytest.mark.parametrize('data', [None, b'no image'])
def test_unreadable_file_is_named(tmp_path, data):
    path = tmp_path / 'a.png'
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(SampleError, match=r'a\.png cannot be read'):
        thumbnail_of_file(path, 64)


def test_unreadable_bytes_are_named():
    with pytest.raises(SampleError, match=r'a\.png cannot be read'):
        thumbnail_of_bytes(b'no image', 'a.png', 64)


def test_data_url_is_readable():
    data = thumbnail(Image.new('RGB', (8, 8), 'blue'), 8)
    url = data_url(data)
    assert url.startswith('data:image/jpeg;base64,')
    assert read_image(data).size == (8, 8)
    assert data_url(b'a', 'image/png') == 'data:image/png;base64,YQ=='
