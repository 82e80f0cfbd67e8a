# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Text files are read; an error names what a file is instead."""

import bz2
import gzip
import lzma

import pytest

from minigpt4.utils.text_files import content_error, encoding_error, read_text

TEXT = '{"a": "picture"}\n'
JPEG = b'\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01'


def test_text_is_read_without_its_byte_order_mark(tmp_path):
    (tmp_path / 'a').write_bytes(b'\xef\xbb\xbfpicture\xc3\xa9')
    assert read_text(tmp_path / 'a') == 'pictureé'
    (tmp_path / 'b').write_bytes(b'')
    assert read_text(tmp_path / 'b') == ''


@pytest.mark.parametrize(
    ('data', 'reason'),
    [
        (
            gzip.compress(TEXT.encode(), mtime=0),
            'a gzip archive; unpack it with gunz',
        ),
        (bz2.compress(TEXT.encode()), 'a bzip2 archive; unpack it with bunz'),
        (lzma.compress(TEXT.encode()), 'a xz archive; unpack it with unxz'),
        (b'PK\x03\x04 and more', 'a ZIP archive; unpack it with unzip'),
        (b'Rar!\x1a\x07', 'a RAR archive; unpack it'),
        (TEXT.encode('utf-16'), 'UTF-16 or UTF-32 text; save it as UTF-8'),
        (TEXT.encode('utf-16-le'), 'UTF-16 or UTF-32 text; save it as'),
        (TEXT.encode('utf-32'), 'UTF-16 or UTF-32 text; save it as UTF-8'),
        (JPEG, 'it is a JPEG image'),
        (b'\x89PNG\r\n\x1a\n', 'it is a PNG image'),
        (b'RIFF\x00\x00\x00\x00WEBPVP8 ', 'it is a WebP image'),
        (b'%PDF-1.7\n', 'it is a PDF document'),
        (b'SQLite format 3\x00', 'it is an SQLite database'),
        (b'picture \xe9', 'byte 8 is not UTF-8; save it as UTF-8'),
    ],
)
def test_another_content_is_named(tmp_path, data, reason):
    path = tmp_path / 'a.json'
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r'a\.json is not UTF-8 text') as e:
        read_text(path)
    assert reason in str(e.value)


def test_a_page_and_an_empty_file_are_texts_but_no_data():
    assert encoding_error(b'') == encoding_error(b'<html>') == ''
    assert content_error(b' \n') == 'it is empty'
    assert 'HTML or XML page' in content_error(b'<!DOCTYPE html>')
    assert 'HTML or XML page' in content_error(b'<div>')
    assert 'begins with zeros' in content_error(bytes(20))
    assert content_error(TEXT.encode()) == ''
    assert content_error(b' ' * 1000 + b'{}') == ''
