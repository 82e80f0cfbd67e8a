# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Errors about unreadable images name the format of the file."""

import io
import os
import socket
import struct
import subprocess
import sys
import types

import numpy as np
import pytest
from PIL import Image, features

from minigpt4.datasets import SampleError, read_image
from minigpt4.images import read as images
from minigpt4.images.read import load_image


def ftyp(brand, more=b''):
    return struct.pack('>I', 24) + b'ftyp' + brand + b'\0' * 4 + more.ljust(99)


JPEG = io.BytesIO()
Image.new('RGB', (64, 64), 'red').save(JPEG, 'JPEG')
JPEG = JPEG.getvalue()


@pytest.mark.parametrize(
    'data, kind, advice',
    [
        # llama-cpp-python #46, llama.cpp #24103, ollama #1526
        (ftyp(b'heic', b'mif1heic'), 'a HEIC image', 'pillow-heif'),
        (ftyp(b'mif1', b'mif1heic'), 'a HEIC image', 'pillow-heif'),
        (b'<?xml version="1.0"?>\n<svg xmlns="x">', 'an SVG', 'PNG'),
        (b'\xef\xbb\xbf<svg width="1"/>', 'an SVG', 'PNG'),
        (ftyp(b'isom'), 'an MP4', 'a frame'),
        (ftyp(b'crx '), 'Canon CR3', 'raw converter'),
        (b'II*\0\x10\0\0\0CR\2\0' + bytes(90), 'Canon CR2', 'raw converter'),
        (b'%PDF-1.7', 'a PDF document', 'export the page'),
        (b'%!PS-Adobe-3.0 EPSF-3.0\n', 'an EPS', 'export the page'),
        (b'<!DOCTYPE svg PUBLIC "a">\n<svg>', 'an SVG', 'PNG'),
        (b'<!DOCTYPE html><html>', 'an HTML page', 'download'),
        (b'\n<html>', 'an HTML page', 'download'),
        (b'{"error": "not found"}', 'a JSON document', 'download'),
        (b'<?xml version="1.0"?><Error/>', 'an XML document', 'download'),
        (b'version https://git-lfs.github.com/spec/v1', 'LFS', 'git lfs pull'),
        (b'PK\3\4' + bytes(30), 'a ZIP archive', 'unpack'),
        (b'\xff\x0a' + bytes(30), 'a JPEG XL image', 'convert'),
        (b'\x1aE\xdf\xa3' + bytes(30), 'a Matroska or WebM', 'a frame'),
        (b'\x93NUMPY\1\0', 'a NumPy file', 'array'),
        (bytes(128) + b'DICM' + bytes(40), 'a DICOM file', 'convert'),
        (b'404 not found', 'a text file', 'JPEG'),
        (b'', 'an empty file', 'JPEG'),
        (bytes(5000), 'a file of zero bytes', 'copy'),
        (b'\x01\x02\xf0\xf1' * 30, 'no image format', 'JPEG'),
        (JPEG[:3], 'a damaged JPEG', 'copy'),
        (JPEG[: len(JPEG) // 2], 'truncated', 'copy'),
        (JPEG[:-20], 'truncated', 'copy'),
        (
            JPEG.replace(b'\xff\xc0\0\x11\x08', b'\xff\xc0\0\x11\x0c'),
            'JPEG image of 12 bits',
            '8 bits',
        ),
    ],
)
def test_error_names_the_format_and_what_to_do(data, kind, advice):
    messages = set()
    for read in (
        read_image,
        lambda data: load_image(data, 8, exact=True),
        lambda data: load_image(data, 8, exact=False),
    ):
        for _ in range(2):
            with pytest.raises(SampleError) as error:
                read(data)
            messages.add(str(error.value))
    (message,) = messages  # without an address of memory
    assert 'cannot be read as an image' in message
    assert kind in message and advice in message and '\n' not in message


def test_ghostscript_is_not_run(monkeypatch):
    monkeypatch.setattr(
        subprocess, 'check_call', lambda *_: pytest.fail('a program was run')
    )
    eps = io.BytesIO()
    Image.new('RGB', (9, 9)).save(eps, 'EPS')
    with pytest.raises(SampleError, match='EPS'):
        read_image(eps.getvalue())


def test_pillow_heif_is_used_if_installed(monkeypatch):
    heic = ftyp(b'heic')

    def register():
        Image.register_open('TESTHEIF', Decoder, heic.startswith)

    class Decoder(Image.Image):
        def __init__(self, file, name=None):
            super().__init__()
            self.__dict__.update(Image.new('RGB', (3, 2), 'red').__dict__)

    module = types.ModuleType('pillow_heif')
    module.register_heif_opener = register
    module.__spec__ = types.SimpleNamespace()
    monkeypatch.setitem(sys.modules, 'pillow_heif', module)
    assert read_image(heic).getpixel((0, 0)) == (255, 0, 0)
    Image.OPEN.pop('TESTHEIF')
    Image.ID.remove('TESTHEIF')


@pytest.mark.skipif(not features.check('avif'), reason='Pillow without AVIF')
def test_avif_is_read_with_its_orientation():
    def exif_fields(kind, value):
        return (
            struct.pack('<HHII', 0x0112, 3, 1, 6)
            + struct.pack('<HHII', 0x011A, kind, 1, 38)
            + bytes(4)
            + value
        )

    valid = exif_fields(5, struct.pack('<II', 72, 1))
    invalid = exif_fields(10, struct.pack('<ii', -1, 0))
    file = io.BytesIO()
    Image.new('RGB', (40, 30), 'red').save(
        file, 'AVIF', exif=b'Exif\0\0II*\0\x08\0\0\0\2\0' + valid
    )
    data = file.getvalue()
    for old, new in (
        (valid[12:24], invalid[12:24]),
        (valid[28:], invalid[28:]),
    ):
        assert read_image(data).size == (30, 40)
        data = data.replace(old, new)
    assert read_image(data).size == (30, 40)


def test_preview_in_a_raw_file_is_refused():
    file = io.BytesIO()
    Image.new('RGB', (9, 9)).save(file, 'TIFF', tiffinfo={254: 1})
    with pytest.raises(SampleError, match='RAW file or a TIFF whose first'):
        read_image(file.getvalue())


@pytest.mark.parametrize('exact', [True, False])
def test_only_regular_files_are_opened(tmp_path, monkeypatch, exact):
    os.mkfifo(tmp_path / 'fifo.jpg')
    (tmp_path / 'zero.jpg').symlink_to('/dev/zero')
    (tmp_path / 'folder.jpg').mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(tmp_path)  # the path of a socket is short
        server.bind('socket.jpg')
    for name, kind in (
        ('fifo', 'a FIFO'),
        ('zero', 'a character device'),
        ('folder', 'a folder'),
        ('socket', 'a socket'),
    ):
        path = tmp_path / f'{name}.jpg'
        with pytest.raises(SampleError, match=f'{name}.jpg is {kind}; exp'):
            load_image(path, 8, exact)


@pytest.mark.parametrize('exact', [True, False])
def test_file_above_the_size_limit_is_refused(tmp_path, monkeypatch, exact):
    monkeypatch.setattr(images, 'MAX_FILE_BYTES', 999)
    path = tmp_path / 'a.jpg'
    path.write_bytes(JPEG + bytes(999))
    with pytest.raises(SampleError, match='a.jpg is larger than 999 bytes'):
        load_image(path, 8, exact)


@pytest.mark.parametrize(
    'source, reason',
    [
        ('a\0b.jpg', r'a\\x00b.jpg cannot be read'),
        ('a' * 5000, 'cannot be read'),
        ('\x1b[31m\nforged.jpg', r'\\x1b\[31m\\nforged.jpg does not exist'),
        (7, 'the image is of type int; expected a path'),
        (None, 'the image is of type NoneType; expected a path'),
    ],
)
@pytest.mark.parametrize('exact', [True, False])
def test_invalid_sources_are_refused(source, reason, exact):
    with pytest.raises(SampleError, match=reason):
        load_image(source, 8, exact)


@pytest.mark.parametrize(
    'array, advice',
    [
        (np.zeros((4, 4, 3), np.float32), r'\* 255'),
        (np.zeros((4, 4), bool), r'\* 255'),
        (np.zeros((4, 4, 4), np.uint8), 'alpha'),
        (np.zeros((3, 4, 5), np.uint8), 'channels last'),
        (np.zeros((1, 4, 4, 3), np.uint8), 'one image'),
    ],
)
def test_unsupported_array_is_refused_with_advice(array, advice):
    with pytest.raises(SampleError, match=f'BGR; .*{advice}'):
        read_image(array)
