# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Images of requests: limits, damaged data, files outside the folder."""

import asyncio
import base64
import io
import os
import pickle
import struct
import threading
import zlib

import pytest
from PIL import Image

pytest.importorskip('httpcore', reason='needs minigpt4[serve]')

from minigpt4.images import request_images as sources_module
from minigpt4.images.errors import ImageError
from minigpt4.images.request_images import ImageLimits, ImageSources


def png(size=(8, 8), color=(255, 0, 0)) -> bytes:
    buffer = io.BytesIO()
    Image.new('RGB', size, color).save(buffer, 'PNG')
    return buffer.getvalue()


def data_url(data: bytes, kind: str = 'image/png') -> str:
    return f'data:{kind};base64,{base64.b64encode(data).decode()}'


def read(url: str, sources: ImageSources | None = None) -> bytes:
    return asyncio.run((sources or ImageSources()).read(url))


def refused(url: str, sources: ImageSources | None = None) -> str:
    """The message of a refused image, which is one short ASCII line."""
    with pytest.raises(ImageError) as caught:
        read(url, sources)
    text = str(caught.value)
    assert text.isascii() and '\n' not in text and len(text) < 400
    return text


# data URLs


def test_data_urls_are_read():
    assert read(data_url(png())) == png()
    assert read('DATA:image/png;BASE64,' + data_url(png())[22:]) == png()
    lines = base64.encodebytes(png()).decode()
    assert '\n' in lines
    assert read('data:image/png;base64,' + lines) == png()
    for size in (30, 31, 32):  # without padding (openedai-vision #4)
        data = bytes(range(size))
        assert read(data_url(data).rstrip('=')) == data


@pytest.mark.parametrize(
    ('url', 'why'),
    [
        ('data:image/png;base64,@@@@', 'base64 of a data URL is broken'),
        ('data:image/png;base64,abcde', 'base64 of a data URL is broken'),
        ('data:image/png;base64,\u00e9\u00e9\u00e9\u00e9', 'is broken'),
        ('data:image/png;base64,', 'has no bytes'),
        ('data:image/png,abcd', 'is not base64'),
        ('data:', 'is not base64'),
        ('iVBORw0KGgo=', 'is not a supported URL'),
        ('', 'is not a supported URL'),
        ('ftp://host/a.png', 'is not a supported URL'),
        ('javascript:alert(1)', 'is not a supported URL'),
        ('/etc/passwd', 'is not a supported URL'),
    ],
)
def test_malformed_urls_are_refused(url, why):
    assert why in refused(url)


def test_size_is_checked_before_base64_is_decoded(monkeypatch):
    sources = ImageSources(ImageLimits(bytes=1000))
    monkeypatch.setattr(base64, 'b64decode', None)  # must not be called
    url = 'data:image/png;base64,' + 'A' * 4000
    assert 'at most 1,000 are allowed' in refused(url, sources)


# decoding


def bomb(width: int, height: int) -> bytes:
    """A small PNG whose header announces many pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        crc = zlib.crc32(kind + body)
        return (
            struct.pack('>I', len(body)) + kind + body + struct.pack('>I', crc)
        )

    header = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    return (
        b'\x89PNG\r\n\x1a\n'
        + chunk(b'IHDR', header)
        + chunk(b'IDAT', zlib.compress(bytes(1000)))
        + chunk(b'IEND', b'')
    )


@pytest.mark.parametrize('side', [6000, 15_000, 60_000])
def test_pixel_bombs_are_not_decoded(side, monkeypatch):
    def load(self):
        raise AssertionError('decoded')

    monkeypatch.setattr('PIL.ImageFile.ImageFile.load', load)
    with pytest.raises(ImageError, match='pixels'):
        ImageSources().decode(bomb(side, side))


def test_images_up_to_the_pixel_limit_are_decoded():
    sources = ImageSources(ImageLimits(pixels=64))
    assert sources.decode(png((8, 8))).getpixel((0, 0)) == (255, 0, 0)
    with pytest.raises(ImageError, match='9 x 8 pixels; at most 64'):
        sources.decode(png((9, 8)))


@pytest.mark.parametrize(
    'data',
    [
        b'',
        b'<html>',
        png()[:40],
        png((64, 64))[:60],
        b'\xff\xd8\xff',
        b'GIF89a',
    ],
    ids=['empty', 'page', 'header', 'cut', 'jpeg', 'gif'],
)
def test_damaged_images_are_refused(data):
    with pytest.raises(ImageError, match='read'):
        ImageSources().decode(data)


def test_formats_that_run_programs_are_refused():
    """Pillow reads EPS by running Ghostscript."""
    eps = b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EOF\n'
    with pytest.raises(ImageError, match='cannot be read; expected'):
        ImageSources().decode(eps)
    assert Image.open(io.BytesIO(eps)).format == 'EPS'  # Pillow would


@pytest.mark.parametrize('format_', ['JPEG', 'WEBP', 'GIF', 'BMP', 'TIFF'])
def test_common_formats_are_decoded(format_):
    buffer = io.BytesIO()
    Image.new('RGB', (16, 16), (0, 0, 255)).save(buffer, format_)
    assert ImageSources().decode(buffer.getvalue()).size == (16, 16)


# files


@pytest.fixture
def folder(tmp_path):
    inside = tmp_path / 'images'
    (inside / 'sub').mkdir(parents=True)
    (inside / 'sub' / 'a b.png').write_bytes(png())
    (tmp_path / 'secret.png').write_bytes(png())
    (inside / 'link.png').symlink_to(tmp_path / 'secret.png')
    os.mkfifo(inside / 'pipe.png')
    return inside


def test_only_files_below_the_folder_are_read(folder):
    sources = ImageSources(folder=folder)
    assert read('file:sub/a%20b.png', sources) == png()
    assert read(f'file://{folder}/sub/a%20b.png', sources) == png()
    outside = [
        'file:///etc/passwd',
        f'file://{folder.parent}/secret.png',
        f'file://{folder.parent}/nothing.png',
        'file:../secret.png',
        'file:%2e%2e/secret.png',
        'file:link.png',
        'file:sub/../../secret.png',
        f'file://host{folder}/sub/a%20b.png',
        'file:%00',
        'file://[',
        'file:',
        'file:pipe.png',  # reading would block indefinitely
    ]
    messages = {refused(url, sources).partition(' is ')[2] for url in outside}
    # the message does not reveal which of them exist
    assert messages == {
        'not a file that may be read; expected a file below the folder of '
        '--images-from.'
    }


def test_file_size_is_limited(folder):
    sources = ImageSources(ImageLimits(bytes=20), folder=folder)
    assert 'at most 20 are' in refused('file:sub/a%20b.png', sources)


def test_files_need_a_folder(folder):
    url = f'file://{folder}/sub/a%20b.png'
    assert 'are not allowed' in refused(url)
    with pytest.raises(NotADirectoryError, match='is no folder'):
        ImageSources(folder=folder / 'nowhere')


def test_a_slow_file_is_refused_in_time(tmp_path, monkeypatch):
    ended = threading.Event()
    (tmp_path / 'a.png').write_bytes(b'data')
    sources = ImageSources(ImageLimits(seconds=0.2), tmp_path)
    monkeypatch.setattr(
        sources_module, 'open_regular', lambda path: ended.wait(600)
    )
    assert 'file:a.png was not read within 0.2' in refused(
        'file:a.png', sources
    )
    ended.set()


def test_errors_have_a_reason_and_a_hint():
    with pytest.raises(ImageError) as caught:
        read('data:image/png;base64,')
    error = caught.value
    assert str(error) == f'{error.reason}; {error.hint}.'
    assert error.hint == "put the image's base64 after the comma"
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.reason, copy.hint) == (error.reason, error.hint)
    assert str(ImageError('the image is empty')) == 'the image is empty.'
