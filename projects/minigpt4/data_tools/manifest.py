# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""A manifest of a data set: the digest of each file and image."""

import datetime
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..utils.errors import printable
from ..utils.text_files import read_text
from ..weights.file_digests import compute_digest
from .find_data import DataPart
from .scan import Scan

FORMAT = 'minigpt4-data-manifest'
FORMAT_VERSION = 1


class Difference(NamedTuple):
    """A file or image that is not as in the manifest.

    Attributes:
        name: Its name.
        change: ``'changed'``, ``'missing'`` or ``'new'``.
    """

    name: str
    change: str


def build_manifest(
    sources: Sequence[str], parts: Iterable[DataPart], scan: Scan
) -> dict[str, Any]:
    """Build the manifest of data that were read completely.

    Args:
        sources: The sources of the command line.
        parts: The parts.
        scan: What was read of them.

    Returns:
        ``format``, ``version`` of the format, ``tool`` with its version,
        ``created`` (UTC), ``sources``, ``records``, and for ``files`` and
        ``images`` by name ``sha256`` and ``bytes``; an image that cannot be
        read has ``error`` instead.

    Raises:
        OSError: A file cannot be read.
    """
    from .. import __version__

    return dict(
        format=FORMAT,
        version=FORMAT_VERSION,
        tool=f'minigpt4 {__version__}',
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(
            timespec='seconds'
        ),
        sources=[printable(source) for source in sources],
        records=scan.num_records,
        files={
            name: dict(sha256=compute_digest(path), bytes=path.stat().st_size)
            for name, path in _data_files(parts)
        },
        images={
            printable(facts.name): dict(
                sha256=facts.digest.hex(), bytes=facts.num_bytes
            )
            if facts.digest
            else dict(error=printable(facts.error or ''))
            for facts in scan.images.values()
        },
    )


def _data_files(parts: Iterable[DataPart]) -> list[tuple[str, Path]]:
    """Return name and path of the files of records and of the shards."""
    found = []
    for part in parts:
        if part.kind == 'records' and part.path.is_file():
            found.append((printable(part.name), part.path))
        for shard in part.shards:
            path = Path(shard)
            if shard not in part.remote:
                found.append((printable(f'{part.name}/{path.name}'), path))
        if part.kind == 'photos':
            found += [
                (path.relative_to(part.path).as_posix(), path)
                for pattern in ('captions*.json', 'annotations/captions*.json')
                for path in sorted(part.path.glob(pattern))
            ]
    return found


def read_manifest(path: Path) -> dict[str, Any]:
    """Read a manifest.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is no manifest.
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
        or content.get('format') != FORMAT
        or not isinstance(content.get('files'), dict)
        or not isinstance(content.get('images'), dict)
    ):
        raise ValueError(
            f'{path} is no manifest of data; expected manifest.json, which '
            '"minigpt4 data check -o DIR" writes.'
        )
    if content.get('version') != FORMAT_VERSION:
        raise ValueError(
            f'{path} has version {content.get("version")!r} of the format; '
            f'expected {FORMAT_VERSION}; write it again with this version.'
        )
    return content


def compare_manifests(
    old: Mapping[str, Any], new: Mapping[str, Any]
) -> list[Difference]:
    """Return what differs between two manifests, by name."""
    found = []
    for section in ('files', 'images'):
        before, after = old[section], new[section]
        for name in sorted(before.keys() | after.keys()):
            if name not in after:
                found.append(Difference(name, 'missing'))
            elif name not in before:
                found.append(Difference(name, 'new'))
            elif _digest(before[name]) != _digest(after[name]):
                found.append(Difference(name, 'changed'))
    return found


def _digest(entry: Any) -> str | None:
    return entry.get('sha256') if isinstance(entry, dict) else None
