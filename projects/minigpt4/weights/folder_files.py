# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The files of a Hugging Face folder other than the weights."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from ..utils.regular_files import read_regular
from .folder_code import read_object

_WEIGHTS = ('.safetensors', '.bin', '.pth', '.pt', '.h5', '.msgpack')


def refuse_outside_links(folder: Path, root: Path | None = None) -> None:
    """Refuse a folder whose small files are links to files outside it.

    What is copied would otherwise be any file of this machine. The hub's
    cache consists of links from ``snapshots/REVISION`` to ``blobs`` of the
    same repository, which are allowed; so are links of weights, which are
    read as tensors alone.

    Args:
        folder: The folder whose files are copied.
        root: The folder that links must not leave; by default ``folder``.

    Raises:
        ValueError: There is such a link.
    """
    root = (root or folder).resolve()
    allowed = [root]
    for path in (root, *root.parents):
        if path.parent.name == 'snapshots':
            allowed.append(path.parent.parent / 'blobs')
    for path in (folder, *sorted(folder.iterdir())):
        if path.suffix in _WEIGHTS:
            continue
        target = Path(os.path.realpath(path))
        if not any(target.is_relative_to(base) for base in allowed):
            raise ValueError(
                f'{path} is a link to {target}, outside of {root}; put the '
                'file itself there.'
            )


def copy_file(source: Path, target: Path) -> None:
    """Copy a regular file's bytes.

    Raises:
        ValueError: It is a FIFO, a device, a socket or a folder.
        OSError: It cannot be read or written.
    """
    target.write_bytes(read_regular(source))


def copy_small_files(source: Path, target: Path) -> None:
    """Copy all of an LLM's folder but its weights to a new folder.

    Raises:
        ValueError: A file is a link to a file outside of the folder.
    """
    refuse_outside_links(source)
    target.mkdir()
    for file in sorted(source.iterdir()):
        weights = file.suffix in _WEIGHTS or file.name.endswith('.index.json')
        if file.is_file() and not weights:
            copy_file(file, target / file.name)


def read_json(path: Path) -> dict:
    """An object in a JSON file; raises what ``read_object`` does."""
    return read_object(path)


def write_json(path: Path, data: Mapping) -> None:
    """Write an object as JSON."""
    path.write_text(json.dumps(data, indent=1) + '\n', encoding='utf-8')
