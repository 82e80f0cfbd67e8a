# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Load PyTorch pickles without running code; explain unreadable files."""

import errno
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..utils.file_types import read_head
from ..utils.regular_files import open_regular
from .checksum import check_weights
from .file_errors import pickled_code, safetensors_error, weights_file_error

_CHUNK_BYTES = 2**20
_AGAIN = 'download it again; if a training wrote it, use an older checkpoint'


def load_pickle(
    path: Path,
    map_location: Any = 'cpu',
    mmap: bool = False,
    checksums: bool = True,
) -> Mapping[str, Any]:
    """Load a dict from a PyTorch pickle; no code of it is run.

    Args:
        path: The file.
        map_location: As for ``torch.load``.
        mmap: Whether to memory-map it; it must be a zip archive.
        checksums: Whether to check the CRC-32 of its records, which
            ``torch.load`` does not do (2 GB take about a second), and the
            checksum of a checkpoint's weights.

    Raises:
        ValueError: It is no regular file or no pickle of a dict, is damaged,
            or would run code.
        OSError: It is missing or cannot be read.
    """
    with open_regular(path) as file:
        in_zip = zipfile.is_zipfile(file)
    if in_zip and checksums:
        _check_crc32(path)
    try:
        if path.suffix == '.safetensors':
            # torch 2.14 goes by this suffix, but the content is a pickle;
            # only a path can be mapped
            with open_regular(path) as file:
                content = torch.load(
                    file, map_location=map_location, weights_only=True
                )
        else:
            content = torch.load(
                path, map_location=map_location, weights_only=True, mmap=mmap
            )
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # a damaged pickle may raise anything
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise  # of the disk, not of a length within the file
        raise unreadable_error(path, error) from error
    if not isinstance(content, Mapping):
        raise ValueError(
            f'{path} holds a {type(content).__name__}; '
            'expected a dict of named tensors.'
        )
    if checksums:
        check_weights(content, str(path))
    return content


def _check_crc32(path: Path) -> None:
    """Refuse a zip archive in which a record differs from its CRC-32.

    Raises:
        ValueError: A record differs, or the archive is damaged.
        OSError: It cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for record in archive.infolist():
                # 0: written with torch's set_crc32_options(False)
                if record.CRC == 0:
                    continue
                with archive.open(record) as file:
                    while file.read(_CHUNK_BYTES):
                        pass  # zipfile compares the CRC-32 at the end
    except MemoryError:
        raise
    except Exception as error:  # a damaged archive may raise anything
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        if 'CRC' in str(error):
            raise ValueError(
                f'{path} ({path.stat().st_size:,} bytes) is damaged '
                f'({error}): its bytes differ from those that were written; '
                'download or copy it again.'
            ) from error
        raise unreadable_error(path, error) from error


def is_safetensors(path: Path) -> bool:
    """Whether a file is in safetensors format, by content, else by name."""
    head = read_head(path)
    if head[8:9] == b'{':  # the JSON header follows its 8-byte length
        return True
    is_pickle = head[:2] in (b'PK', b'\x80\x02')
    return path.suffix == '.safetensors' and not is_pickle


def unreadable_error(path: Path, error: Exception) -> ValueError:
    """Build the error for a file that cannot be read as weights.

    Args:
        path: The file.
        error: What torch or safetensors raised.
    """
    return ValueError(
        f'{path} ({path.stat().st_size:,} bytes) cannot be read as weights: '
        f'it {_explain(path, error)}.'
    )


def _explain(path: Path, error: Exception) -> str:
    """Say why a file cannot be read as weights, and what to do."""
    head = read_head(path)
    found = weights_file_error(head)
    if found is None and is_safetensors(path):
        found = safetensors_error(path)
        if found is not None and not found[0].startswith('is '):
            found = 'is truncated or damaged', f'{found[1]}: it {found[0]}'
    if found is not None:
        return '; '.join(found)
    code = pickled_code(str(error))
    if code is not None:
        return (
            f'is a pickle that would run code ({code}); it is refused: '
            'get the weights as safetensors, or from another source'
        )
    if 'TorchScript' in str(error):
        return (
            'is a TorchScript archive, which is a program; save the '
            'state_dict() of the model'
        )
    if head.startswith(b'PK') and not _may_be_pickle(path):
        return 'is a zip archive without weights of PyTorch; unpack it'
    if is_safetensors(path) or head.startswith(b'PK'):
        return f'is truncated or damaged; {_AGAIN}'
    return f'is truncated or no file of weights; {_AGAIN}'


def _may_be_pickle(path: Path) -> bool:
    """Whether a zip archive is a PyTorch file, or too damaged to tell."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(n.endswith('/data.pkl') for n in archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError):
        return True
