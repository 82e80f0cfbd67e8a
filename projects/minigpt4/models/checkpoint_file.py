# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Reading a checkpoint file: nothing of it is run, damage is found.

It is read with ``weights_only`` and compared with the CRC of its zip records
(which also checkpoints without checksums have) and with its checksums.
"""

import zipfile
from pathlib import Path
from typing import Any

import torch
from mmengine.runner import CheckpointLoader

from ..regular_files import open_regular
from .checksum import ChecksumError, check_all


class CheckpointError(ValueError):
    """A file is no checkpoint that can be loaded or resumed."""


def read_checkpoint(path: 'str | Path', device: Any = 'cpu') -> dict[str, Any]:
    """Read and verify a checkpoint of mmengine, of ours or a bare state dict.

    Args:
        path: The file.
        device: Where its tensors go; the ``map_location`` of torch.

    Raises:
        FileNotFoundError: There is no such file.
        NotRegularFileError: It is a FIFO, a device or a folder.
        CheckpointError: It is damaged, is no checkpoint or would run code.
    """
    with open_regular(path) as file:
        head = file.read(512)
        file.seek(0)
        try:
            if zipfile.is_zipfile(file):
                with zipfile.ZipFile(file) as records:
                    damaged = records.testzip()
                if damaged is not None:
                    raise zipfile.BadZipFile(f'CRC of {damaged}')
            file.seek(0)
            checkpoint = torch.load(
                file, map_location=device, weights_only=True
            )
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # a damaged pickle may raise any
            raise CheckpointError(
                f'{path} ({Path(path).stat().st_size:,} bytes) cannot be '
                f'read as a checkpoint: {_what_is_wrong(head, error)}.'
            ) from error
    if not isinstance(checkpoint, dict):
        raise CheckpointError(
            f'{path} holds a {type(checkpoint).__name__}; expected the dict '
            'of a checkpoint.'
        )
    try:
        check_all(checkpoint, str(path))
    except ChecksumError as error:
        raise CheckpointError(str(error)) from error
    return checkpoint


def _what_is_wrong(head: bytes, error: Exception) -> str:
    """Why a file is no checkpoint."""
    if not head:
        return 'it is empty'
    if not head.strip(b'\0'):
        return 'it is filled with zeros'
    if head.lstrip().lower().startswith((b'<!doctype', b'<html', b'<?xml')):
        return 'it is a web page'
    if head.startswith(b'version https://git-lfs'):
        return 'it is a Git LFS pointer, not the file; run git lfs pull'
    if 'Unsupported' in str(error) and 'GLOBAL' in str(error):
        name = str(error).partition('GLOBAL')[2].split()[0].rstrip('`.')
        return f'it is a pickle that would run code ({name}); it is refused'
    return 'it is truncated, damaged or no checkpoint'


def load_from_local(filename: str, map_location: Any = None) -> dict:
    """Read a local checkpoint, for mmengine's ``CheckpointLoader``."""
    return read_checkpoint(Path(filename).expanduser(), map_location)


def register_reader() -> None:
    """Let mmengine and MMPretrain read local checkpoints with these checks."""
    CheckpointLoader.register_scheme('', load_from_local, force=True)
