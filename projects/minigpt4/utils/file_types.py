# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""What a file is that is not what its name promises.

:func:`common_content` and :func:`archive_format` recognise by the first bytes
what replaces a file of any kind: weights, records, images, shards, downloads.
The rest checks files of weights. Standard library only, so that ``minigpt4
doctor`` can use it where the package itself cannot be imported.
"""

import json
import os
import struct
from pathlib import Path

from .regular_files import open_regular

HEAD_BYTES = 512  # of a file's start, which are enough for all below
_WEB_PAGE = (b'<!doctype html', b'<html', b'<head', b'<body')
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
# what is wrong with a file of weights and what to do
_FOREIGN = {
    'empty': ('is empty', 'download it again'),
    'LFS pointer': (
        'is a Git LFS pointer, not the file',
        'run "git lfs pull" in its folder',
    ),
    'zeros': (
        'begins with zeros: its download was not completed',
        'download it again',
    ),
} | dict.fromkeys(
    ('HTML', 'XML'),
    (
        'is a web page, which the server sent instead of the file',
        'download it again from another address',
    ),
)
# bits of each element, by the type's name in a safetensors header
_BITS = {
    **dict.fromkeys(('F4',), 4),
    **dict.fromkeys(('F6_E2M3', 'F6_E3M2'), 6),
    **dict.fromkeys(
        ('BOOL', 'U8', 'I8', 'F8_E4M3', 'F8_E5M2', 'F8_E8M0')
        + ('F8_E4M3FNUZ', 'F8_E5M2FNUZ'),
        8,
    ),
    **dict.fromkeys(('I16', 'U16', 'F16', 'BF16'), 16),
    **dict.fromkeys(('I32', 'U32', 'F32'), 32),
    **dict.fromkeys(('I64', 'U64', 'F64', 'C64'), 64),
}
# the format's own limit
_MAX_HEADER_BYTES = 10**8


def common_content(head: bytes) -> str | None:
    """What replaces a file, whatever file was expected.

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
    if start.startswith(_WEB_PAGE):
        return 'HTML'
    if start.startswith(b'<?xml'):
        return 'XML'
    return None if head.strip(b'\0') else 'zeros'


def archive_format(head: bytes) -> str | None:
    """The name of the format of an archive or packed file, e.g. ``'gzip'``.

    Args:
        head: The first bytes of the file, 8 or more.

    Returns:
        The name; None where the bytes are not those of an archive.
    """
    return next(
        (name for mark, name in _ARCHIVES if head.startswith(mark)), None
    )


def foreign_content(head: bytes) -> tuple[str, str] | None:
    """What :func:`common_content` means for a file of weights.

    Args:
        head: The first bytes of the file, ``HEAD_BYTES`` or more.

    Returns:
        What is wrong and what to do, as parts of a sentence; None where the
        first bytes show nothing wrong.
    """
    return _FOREIGN.get(common_content(head) or '')


def read_head(path: 'str | os.PathLike') -> bytes:
    """The first ``HEAD_BYTES`` bytes of a regular file.

    Raises:
        ValueError: It is a FIFO, a device, a socket or a folder.
        OSError: It is missing or cannot be read.
    """
    with open_regular(path) as file:
        return file.read(HEAD_BYTES)


def safetensors_fault(path: 'str | os.PathLike') -> tuple[str, str] | None:
    """What is wrong with a safetensors file, by its header and size alone.

    Args:
        path: A regular file.

    Returns:
        What is wrong and what to do; None where nothing is.

    Raises:
        ValueError: It is a FIFO, a device, a socket or a folder.
        OSError: It is missing or cannot be read.
    """
    size = Path(path).stat().st_size
    with open_regular(path) as file:
        head = file.read(HEAD_BYTES)
        found = foreign_content(head)
        if found is not None:
            return found
        again = 'download it again'
        file.seek(0)
        try:
            (length,) = struct.unpack('<Q', file.read(8))
            if length > _MAX_HEADER_BYTES:
                raise ValueError(length)
            if length > size - 8:
                return f'has {size:,} bytes, fewer than its header', again
            header = json.loads(file.read(length))
            header.pop('__metadata__', None)
            end = _end_of_data(header)
        except (
            struct.error,
            ValueError,
            LookupError,
            TypeError,
            AttributeError,
            RecursionError,
        ):
            return 'is no safetensors file (its header is damaged)', again
    if size != 8 + length + end:
        return f'has {size:,} bytes, its header says {8 + length + end:,}', (
            again
        )
    return None


def _end_of_data(header: dict) -> int:
    """Bytes of all tensors, which must follow each other without a gap.

    Raises:
        ValueError: A size does not follow from a shape, or there is a gap.
    """
    end = 0
    for entry in sorted(header.values(), key=lambda e: e['data_offsets']):
        first, last = entry['data_offsets']
        bits = _BITS.get(entry['dtype'])
        count = 1
        for length in entry['shape']:
            count *= length
        if first != end or last < first:
            raise ValueError(entry)
        if bits is not None and (count * bits + 7) // 8 != last - first:
            raise ValueError(entry)
        end = last
    return end


def pickled_code(message: str) -> str | None:
    """What a pickle would call, from torch's refusal to unpickle it.

    Args:
        message: The text of an ``UnpicklingError`` of ``torch.load``.

    Returns:
        The name of a function or class; None for another error.
    """
    if 'GLOBAL' not in message or 'nsupported' not in message:
        return None
    words = message.partition('GLOBAL')[2].split()
    return words[0].rstrip('`.,') if words else None
