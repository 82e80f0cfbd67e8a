# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Read, choose and copy the files of a Hugging Face folder.

Standard library only, so that ``minigpt4 doctor`` can use it where the
package itself cannot be imported.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from ..utils.regular_files import read_regular
from .file_errors import weights_file_error

AGAIN = 'download it again'
_WEIGHT_SUFFIXES = ('.safetensors', '.bin', '.pth', '.pt', '.h5', '.msgpack')
# transformers looks for them in this order
_WEIGHT_FILES = (
    'model.safetensors',
    'model.safetensors.index.json',
    'pytorch_model.bin',
    'pytorch_model.bin.index.json',
)


def read_json(path: Path) -> dict:
    """Read a JSON object as transformers does: UTF-8 without a BOM.

    Raises:
        ValueError: It holds something else, or is not a regular file.
        OSError: It cannot be read.
    """
    data = read_regular(path)
    found = weights_file_error(data[:512])
    if found is not None:
        raise ValueError(f'{path} is no JSON: it {found[0]}; {found[1]}.')
    if data.startswith(b'\xef\xbb\xbf'):
        raise ValueError(
            f'{path} begins with a byte order mark, which transformers does '
            'not read; save it as UTF-8 without BOM.'
        )
    try:
        content = json.loads(data.decode('utf-8'))
    except RecursionError:
        raise ValueError(f'{path} is nested too deeply; {AGAIN}.') from None
    except ValueError as error:
        raise ValueError(f'{path} is no JSON ({error}); {AGAIN}.') from error
    if not isinstance(content, dict):
        raise ValueError(
            f'{path} holds a {type(content).__name__}; expected an object.'
        )
    return content


def write_json(path: Path, data: Mapping) -> None:
    """Write an object as JSON."""
    path.write_text(json.dumps(data, indent=1) + '\n', encoding='utf-8')


def display_text(value: Any) -> str:
    """Format a value of a JSON file for a message: one line of 80 characters.

    Args:
        value: Any value that JSON can hold.
    """
    text = value if isinstance(value, str) else json.dumps(value)
    text = text.encode('unicode_escape').decode('ascii')
    return text if len(text) <= 80 else f'{text[:77]}...'


def choose_weights(folder: Path) -> str | None:
    """Choose the weight file, or the index of shards, to load.

    The order is that of transformers, but an index is ignored if all of its
    shards are missing and another format exists: some folders have the
    indices of two formats and the shards of one.

    Args:
        folder: The folder of a model.

    Returns:
        The name of a file in the folder; None if there is none.

    Raises:
        OSError: An index cannot be read.
    """
    names = [n for n in _WEIGHT_FILES if os.path.lexists(folder / n)]
    for name in names:
        if not name.endswith('.index.json'):
            return name
        try:
            shards = read_index(folder / name).values()
        except ValueError:
            return name  # a damaged index is reported, not ignored
        if any(os.path.lexists(folder / shard) for shard in shards):
            return name
    return next(iter(names), None)


def read_index(path: Path) -> dict[str, str]:
    """Read which shard holds each tensor.

    Args:
        path: An index of shards, ``*.index.json``.

    Returns:
        Tensor name: name of a file in the folder of the index.

    Raises:
        ValueError: It is not an index, or a shard is in another folder.
        OSError: It cannot be read.
    """
    try:
        shards = read_json(path).get('weight_map')
    except ValueError as error:
        reason = str(error).removeprefix(f'{path} ')
        raise ValueError(
            f'{path} is no index of shards: it {reason}'
        ) from error
    if not isinstance(shards, dict) or not all(
        isinstance(name, str) and name for name in shards.values()
    ):
        raise ValueError(f'{path} is no index of shards; {AGAIN}.')
    for name in shards.values():
        if name == '..' or PurePosixPath(name).name != name or '\0' in name:
            raise ValueError(
                f'{path} names the shard {display_text(name)}, which is not '
                f'in its folder; {AGAIN}.'
            )
    return shards


def refuse_outside_links(folder: Path, root: Path | None = None) -> None:
    """Refuse a folder whose small files are links to files outside it.

    Otherwise a copy could contain any file of this machine. The hub's cache
    consists of links from ``snapshots/REVISION`` to ``blobs`` of the same
    repository, which are allowed; so are links of weight files, which are
    read as tensors only.

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
        if path.suffix in _WEIGHT_SUFFIXES:
            continue
        target = Path(os.path.realpath(path))
        if not any(target.is_relative_to(base) for base in allowed):
            raise ValueError(
                f'{path} is a link to {target}, outside of {root}; put the '
                'file itself there.'
            )


def copy_file(source: Path, target: Path) -> None:
    """Copy the bytes of a regular file.

    Raises:
        ValueError: It is a FIFO, a device, a socket or a folder.
        OSError: It cannot be read or written.
    """
    target.write_bytes(read_regular(source))


def copy_small_files(source: Path, target: Path) -> None:
    """Copy all files except the weights to a new folder.

    Raises:
        ValueError: A file is a link to a file outside of the folder.
    """
    refuse_outside_links(source)
    target.mkdir()
    for file in sorted(source.iterdir()):
        is_weights = file.suffix in _WEIGHT_SUFFIXES
        if file.name.endswith('.index.json') or is_weights:
            continue
        if file.is_file():
            copy_file(file, target / file.name)
