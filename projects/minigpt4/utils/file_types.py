# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Detect by its first bytes what a file is instead of the expected file.

Standard library only, so that ``minigpt4 doctor`` can use it when the package
itself cannot be imported.
"""

import os

from .regular_files import open_regular

HEAD_BYTES = 512  # bytes from the start of a file that all functions need
_HTML_STARTS = (b'<!doctype html', b'<html', b'<head', b'<body')
_ARCHIVES = (
    (b'\x1f\x8b', 'gzip'),
    (b'BZh', 'bzip2'),
    (b'\xfd7zXZ\0', 'xz'),
    (b'(\xb5/\xfd', 'Zstandard'),
    (b'\x04"M\x18', 'LZ4'),
    (b'PK\x03\x04', 'ZIP'),
    (b'PK\x05\x06', 'ZIP'),
    (b'7z\xbc\xaf', '7z'),
    (b'Rar!', 'RAR'),
    (b'\x1f\x9d', 'compress'),
)
_BINARY = (
    (b'\xff\xd8\xff', 'a JPEG image'),
    (b'\x89PNG\r\n', 'a PNG image'),
    (b'GIF8', 'a GIF image'),
    (b'II*\0', 'a TIFF image'),
    (b'MM\0*', 'a TIFF image'),
    (b'%PDF-', 'a PDF document'),
    (b'\xd0\xcf\x11\xe0', 'a document of an office program'),
    (b'SQLite format 3\0', 'an SQLite database'),
    (b'PAR1', 'a Parquet file'),
    (b'ARROW1', 'an Arrow file'),
    (b'\x89HDF', 'an HDF5 file'),
    (b'\x93NUMPY', 'a NumPy array'),
    (b'\x80\x02', 'a Python pickle'),
    (b'\x80\x04', 'a Python pickle'),
    (b'\x7fELF', 'a program'),
)


def unexpected_content(head: bytes) -> str | None:
    """Detect content that may replace a file of any kind.

    A failed download leaves an HTML or XML page, a clone without Git LFS a
    pointer, an interrupted copy zeros or an empty file.

    Args:
        head: The first bytes of the file, ``HEAD_BYTES`` or more.

    Returns:
        ``'empty'``, ``'LFS pointer'``, ``'HTML'``, ``'XML'`` or ``'zeros'``;
        None for anything else.
    """
    if not head:
        return 'empty'
    if head.startswith(b'version https://git-lfs'):
        return 'LFS pointer'
    start = head.removeprefix(b'\xef\xbb\xbf').lstrip()[:16].lower()
    if start.startswith(_HTML_STARTS):
        return 'HTML'
    if start.startswith(b'<?xml'):
        return 'XML'
    return None if head.strip(b'\0') else 'zeros'


def archive_format(head: bytes) -> str | None:
    """Detect the format of an archive or compressed file, e.g. ``'gzip'``.

    Args:
        head: The first bytes of the file, 8 or more.

    Returns:
        The name of the format; None for anything else.
    """
    return next(
        (name for magic, name in _ARCHIVES if head.startswith(magic)), None
    )


def binary_format(head: bytes) -> str | None:
    """Detect files that are neither text nor an archive.

    Args:
        head: The first bytes of the file, 16 or more.

    Returns:
        What it is with its article, e.g. ``'a JPEG image'``; None for
        anything else.
    """
    if head.startswith(b'RIFF') and head[8:12] == b'WEBP':
        return 'a WebP image'
    return next(
        (name for magic, name in _BINARY if head.startswith(magic)), None
    )


def read_head(path: 'str | os.PathLike') -> bytes:
    """Read the first ``HEAD_BYTES`` bytes of a regular file.

    Raises:
        ValueError: The path is a FIFO, a device, a socket or a folder.
        OSError: The file is missing or cannot be read.
    """
    with open_regular(path) as file:
        return file.read(HEAD_BYTES)
