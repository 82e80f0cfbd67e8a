# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Read text files of users; an error names what the file is instead."""

import os
from pathlib import Path

from .file_types import (
    HEAD_BYTES,
    archive_format,
    binary_format,
    unexpected_content,
)
from .regular_files import read_regular

_CONTENT_ERRORS = {
    'empty': 'it is empty',
    'LFS pointer': (
        'it is a Git LFS pointer; run "git lfs pull" to get the file'
    ),
    'HTML': 'it is an HTML or XML page; download the file itself',
    'zeros': 'it begins with zeros; download it again',
}
_UNPACK = {
    'gzip': ' with gunzip',
    'bzip2': ' with bunzip2',
    'xz': ' with unxz',
    'Zstandard': ' with unzstd',
    'ZIP': ' with unzip',
}
_UTF_8_BOM, _OTHER_BOMS = b'\xef\xbb\xbf', (b'\xff\xfe', b'\xfe\xff')
_ENCODING_ERROR = 'it is UTF-16 or UTF-32 text; save it as UTF-8'


def content_error(data: bytes) -> str:
    """Return why a file is not UTF-8 data, and what to do; '' if it may be.

    Args:
        data: The file, or at least its first ``HEAD_BYTES``.
    """
    head = data[:HEAD_BYTES].removeprefix(_UTF_8_BOM).lstrip()
    if not head and data.removeprefix(_UTF_8_BOM).strip():
        return ''  # data after much white space
    if found := unexpected_content(head):
        return _CONTENT_ERRORS['HTML' if found == 'XML' else found]
    if reason := encoding_error(data):
        return reason
    return _CONTENT_ERRORS['HTML'] if head.startswith(b'<') else ''


def encoding_error(data: bytes) -> str:
    """Return why a file is no UTF-8 text, and what to do; '' if it may be.

    In contrast to :func:`content_error` any text is accepted, such as HTML
    and an empty one.

    Args:
        data: The file, or at least its first ``HEAD_BYTES``.
    """
    head = data[:HEAD_BYTES]
    if archive := archive_format(head):
        return f'it is a {archive} archive; unpack it' + _UNPACK.get(
            archive, ''
        )
    if head.startswith(b'PAR1'):
        return 'it is a Parquet file; write its rows as JSON'
    if found := binary_format(head):
        return f'it is {found}; give another file'
    if data.startswith(_OTHER_BOMS) or data[:4].count(0) in (2, 3):
        return _ENCODING_ERROR
    return ''


def decode_utf8(data: bytes, path: 'str | os.PathLike') -> str:
    """Decode the content of a text file, without its byte order mark.

    Args:
        data: The content.
        path: The file, for the error.

    Raises:
        ValueError: It is not UTF-8.
    """
    reason = encoding_error(data)
    if not reason:
        try:
            return data.decode('utf-8-sig')
        except UnicodeDecodeError as error:
            reason = f'byte {error.start} is not UTF-8; save it as UTF-8'
    raise ValueError(f'{Path(path)} is not UTF-8 text ({reason}).')


def read_text(path: 'str | os.PathLike') -> str:
    """Read a UTF-8 text file, with or without a byte order mark.

    Raises:
        ValueError: The file is not a regular file or not UTF-8.
        OSError: The file is missing or cannot be read.
    """
    return decode_utf8(read_regular(path), path)
