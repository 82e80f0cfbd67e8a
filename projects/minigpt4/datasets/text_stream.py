# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Open text files of users as streams: gzip, byte order marks, damage."""

import codecs
import gzip
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from ..utils.file_types import HEAD_BYTES
from ..utils.regular_files import open_regular
from ..utils.text_files import content_error

_GZIP = b'\x1f\x8b'
# UTF-32 first: its mark begins with that of UTF-16
_ENCODINGS = (
    (codecs.BOM_UTF32_LE, 'utf-32'),
    (codecs.BOM_UTF32_BE, 'utf-32'),
    (codecs.BOM_UTF16_LE, 'utf-16'),
    (codecs.BOM_UTF16_BE, 'utf-16'),
)
# what reading a damaged or truncated gzip file raises
DAMAGED = (EOFError, gzip.BadGzipFile, OSError)


@contextmanager
def open_text(path: 'str | os.PathLike') -> Iterator[TextIO]:
    r"""Open a text file; a context manager.

    The encoding is UTF-8, or that of the byte order mark. Bytes that are not
    valid become lone surrogates, so that a check of each text refuses them.
    Lines end with ``\n``; a ``\r`` before it remains.

    Args:
        path: The file, also compressed with gzip.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is not a regular file or no text.
    """
    with open_regular(path) as file:
        raw: Any = file
        if raw.peek(2)[:2] == _GZIP:
            raw = gzip.GzipFile(fileobj=file)
        buffered = io.BufferedReader(raw, 1 << 20)
        try:
            head = buffered.peek(HEAD_BYTES)[:HEAD_BYTES]
        except DAMAGED as error:
            raise ValueError(
                f'{Path(path)} cannot be decompressed ({error}); download it '
                'again.'
            ) from error
        encoding = next(
            (name for mark, name in _ENCODINGS if head.startswith(mark)),
            'utf-8-sig',
        )
        if encoding == 'utf-8-sig' and (reason := content_error(head)):
            raise ValueError(f'{Path(path)} is no text file ({reason}).')
        with io.TextIOWrapper(
            buffered, encoding, errors='surrogateescape', newline='\n'
        ) as text:
            yield text


def plain_suffix(path: Path) -> str:
    """The suffix of a file in lower case, without ``.gz``."""
    name = path.name.lower().removesuffix('.gz')
    return os.path.splitext(name)[1]
