# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Detect what is wrong with a file of weights, without reading its tensors.

Standard library only, so that ``minigpt4 doctor`` can use it when the package
itself cannot be imported.
"""

import json
import os
import struct
from pathlib import Path

from ..utils.file_types import HEAD_BYTES, unexpected_content
from ..utils.regular_files import open_regular

# content: what is wrong, what to do
_ERRORS = {
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
# bits per element, by the name of the type in a safetensors header
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
_MAX_HEADER_BYTES = 10**8  # the limit of the safetensors format


def weights_file_error(head: bytes) -> tuple[str, str] | None:
    """Detect content that cannot be a file of weights.

    Args:
        head: The first bytes of the file, ``HEAD_BYTES`` or more.

    Returns:
        What is wrong and what to do, as phrases for a sentence; None if the
        first bytes show no error.
    """
    return _ERRORS.get(unexpected_content(head) or '')


def safetensors_error(path: 'str | os.PathLike') -> tuple[str, str] | None:
    """Check the header and the size of a safetensors file.

    Args:
        path: A regular file.

    Returns:
        What is wrong and what to do, as phrases for a sentence; None for a
        valid file.

    Raises:
        ValueError: The path is a FIFO, a device, a socket or a folder.
        OSError: The file is missing or cannot be read.
    """
    again = 'download it again'
    size = Path(path).stat().st_size
    with open_regular(path) as file:
        error = weights_file_error(file.read(HEAD_BYTES))
        if error is not None:
            return error
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
        return (
            f'has {size:,} bytes, its header says {8 + length + end:,}',
            again,
        )
    return None


def _end_of_data(header: dict) -> int:
    """Return the bytes of all tensors, which must have no gap between them.

    Raises:
        ValueError: A size does not match its shape, or there is a gap.
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
    """Find the function that a pickle would call, in torch's error message.

    Args:
        message: The text of an ``UnpicklingError`` of ``torch.load``.

    Returns:
        The name of a function or class; None for another error.
    """
    if 'GLOBAL' not in message or 'nsupported' not in message:
        return None
    words = message.partition('GLOBAL')[2].split()
    return words[0].rstrip('`.,') if words else None
