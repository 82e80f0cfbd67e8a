# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Detecting what a file is by its first bytes."""

import bz2
import gzip
import io
import lzma
import zipfile

import pytest

from minigpt4.utils.file_types import archive_format, unexpected_content
from minigpt4.weights.file_errors import weights_file_error


@pytest.mark.parametrize(
    'head, content',
    [
        (b'', 'empty'),
        (b'version https://git-lfs.github.com/spec/v1\n', 'LFS pointer'),
        (b'<!DOCTYPE html>', 'HTML'),
        (b'\xef\xbb\xbf\r\n<HTML lang="en">', 'HTML'),
        (b'<?xml version="1.0"?>', 'XML'),
        (bytes(512), 'zeros'),
        # a safetensors header of 60 bytes, and special tokens
        (b'<\0\0\0\0\0\0\0{"a": {}}', None),
        (b'<s>\n</s>\n', None),
        (bytes(500) + b'a', None),
        (b'{"a": 1}', None),
    ],
)
def test_unexpected_content_is_an_error_for_weights(head, content):
    assert unexpected_content(head) == content
    assert (weights_file_error(head) is None) == (content is None)


def zip_archive():
    file = io.BytesIO()
    zipfile.ZipFile(file, 'w').writestr('a', 'b')
    return file.getvalue()


@pytest.mark.parametrize(
    'data, name',
    [
        (gzip.compress(b'a', mtime=0), 'gzip'),
        (bz2.compress(b'a'), 'bzip2'),
        (lzma.compress(b'a'), 'xz'),
        (zip_archive(), 'ZIP'),
        (b'(\xb5/\xfd\x04\0', 'Zstandard'),
        (b'\xff\xd8\xff\xe0', None),
        (b'', None),
    ],
)
def test_archive_format_is_detected(data, name):
    assert archive_format(data[:8]) == name
