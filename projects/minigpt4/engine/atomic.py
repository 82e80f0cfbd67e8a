# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Files that are written whole or not at all."""

import os
from pathlib import Path


def write_atomically(path: 'str | Path', data: bytes) -> None:
    """Write a file through a neighbour that then takes its name.

    Args:
        path: Where to; its folder is made.
        data: What to write.

    Raises:
        OSError: It could not be written (a full disk, say); what stood there
            before is untouched and nothing is left behind.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f'.{path.name}.part')
    try:
        with open(part, 'wb') as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise OSError(
            error.errno,
            f'{path} ({len(data):,} bytes) could not be saved '
            f'({error.strerror}); what was saved before is whole: free some '
            'space and resume',
        ) from error
