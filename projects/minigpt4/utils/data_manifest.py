# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Read a manifest of data, and the list of shards in it."""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .errors import printable
from .text_files import read_text

MANIFEST_FORMAT = 'minigpt4-data-manifest'
MANIFEST_VERSION = 3
# of version 2 the list of shards is the same, the names of files are not
_VERSIONS_OF_SHARDS = (2, MANIFEST_VERSION)
# a quote could end the argument of a program that reads the address
_ADDRESS = re.compile(r"""\w+://[^\s'"\\]+""")


def read_manifest(
    path: 'str | Path', versions: Sequence[int] = (MANIFEST_VERSION,)
) -> dict[str, Any]:
    """Read a manifest.

    Args:
        path: ``manifest.json`` of ``minigpt4 data check -o DIR``.
        versions: The versions of the format that are accepted.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is no manifest, or has another version.
    """
    try:
        content = json.loads(read_text(path))
    except ValueError as error:
        raise ValueError(
            f'{path} is no JSON file; expected manifest.json, which '
            '"minigpt4 data check -o DIR" writes.'
        ) from error
    if (
        not isinstance(content, dict)
        or content.get('format') != MANIFEST_FORMAT
        or not isinstance(content.get('files'), dict)
        or not isinstance(content.get('images'), dict)
    ):
        raise ValueError(
            f'{path} is no manifest of data; expected manifest.json, which '
            '"minigpt4 data check -o DIR" writes.'
        )
    if content.get('version') not in versions:
        raise ValueError(
            f'{path} has version {content.get("version")!r} of the format; '
            f'expected {MANIFEST_VERSION}; write it again with "minigpt4 '
            'data check DATA -o DIR".'
        )
    return content


def read_shards(path: 'str | Path') -> list[str]:
    """Return the shards of a manifest that training reads.

    Args:
        path: The manifest. Its relative paths are relative to its folder.

    Returns:
        The paths of local shards, and the addresses of remote ones.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is no manifest, has another version, lists no
            shard, or one that is a command.
    """
    try:
        content = read_manifest(path, _VERSIONS_OF_SHARDS)
        found = [entry['shard'] for entry in content['shards']]
    except (KeyError, TypeError):
        found = []
    if not found or not all(isinstance(shard, str) for shard in found):
        raise ValueError(
            f'{path} lists no shard; expected the manifest of shards that '
            '"minigpt4 data check SHARDS -o DIR" writes.'
        )
    return [_resolve(path, shard) for shard in found]


def is_address(shard: str) -> bool:
    """Return whether a shard is an address, which a manifest may list.

    Commands (``pipe:``) are no addresses: a manifest starts no program.
    """
    return _ADDRESS.fullmatch(shard) is not None


def _resolve(manifest: 'str | Path', shard: str) -> str:
    if is_address(shard):
        if '://***@' in shard:
            raise ValueError(
                f'{manifest} lists {printable(shard)[:200]} without its user '
                'and password (***); write them there, or set the addresses '
                'in the config.'
            )
        return shard
    if re.match(r'\w{2,}:', shard):  # one letter is a drive
        raise ValueError(
            f'{manifest} lists the shard {printable(shard)[:200]}; expected '
            'a path or an address. A command has to be in the config itself.'
        )
    folder = os.path.dirname(manifest)
    return os.path.normpath(os.path.join(folder, shard))
