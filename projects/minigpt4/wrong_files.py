# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""What a file of weights is in truth: a pointer, a web page, cut short.

Standard library only, so that ``minigpt4 doctor`` can use it where the
package itself cannot be imported.
"""

import json
import os
import struct
from pathlib import Path

from .regular_files import open_regular

HEAD_BYTES = 512  # of a file's start, for :func:`foreign_content`
_WEB_PAGE = (b'<!doctype', b'<html', b'<?xml')
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


def foreign_content(head: bytes) -> tuple[str, str] | None:
    """What the start of a file shows that it is, if it is no file of weights.

    Args:
        head: The first bytes of the file, up to ``HEAD_BYTES``.

    Returns:
        What it is and what to do, as parts of a sentence; None where the
        start shows nothing.
    """
    if not head:
        return 'is empty', 'download it again'
    if head.startswith(b'version https://git-lfs'):
        return (
            'is a Git LFS pointer, not the file',
            'run "git lfs pull" in its folder',
        )
    start = head.removeprefix(b'\xef\xbb\xbf').lstrip().lower()
    if start.startswith(_WEB_PAGE):
        return (
            'is a web page, which the server sent instead of the file',
            'download it again from another address',
        )
    if not head.strip(b'\0'):
        return (
            'begins with zeros: its download was not completed',
            'download it again',
        )
    return None


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
