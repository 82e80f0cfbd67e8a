# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The SHA-256 of large files, computed once per file."""

import contextlib
import hashlib
import json
import os
from pathlib import Path

from ..utils.atomic import write_atomically
from ..utils.regular_files import open_regular
from .cache_folder import cache_folder
from .http_download import read_json_or_empty

_CHUNK_BYTES = 2**20


def compute_digest(path: Path) -> str:
    """Compute the SHA-256 of a file, as 64 hexadecimal digits.

    Raises:
        NotRegularFileError: It is a FIFO or a device.
        OSError: It cannot be read.
    """
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, as 64 hexadecimal digits.

    It is kept in ``digests/`` of the cache folder and computed again if size
    or modification time of the file have changed. A cache folder that cannot
    be written is no error: the file is read each time.

    Args:
        path: The file.

    Raises:
        NotRegularFileError: It is a FIFO or a device.
        OSError: It cannot be read.
    """
    path = Path(os.path.realpath(path))
    found = path.stat()
    key = dict(path=str(path), size=found.st_size, mtime_ns=found.st_mtime_ns)
    name = hashlib.sha256(os.fsencode(path)).hexdigest()[:32]
    record_path = cache_folder() / 'digests' / f'{name}.json'
    record = read_json_or_empty(record_path)
    digest = record.pop('sha256', None)
    if record == key and isinstance(digest, str):
        return digest
    digest = compute_digest(path)
    with contextlib.suppress(OSError):
        write_atomically(
            record_path, json.dumps(key | dict(sha256=digest)).encode()
        )
    return digest
