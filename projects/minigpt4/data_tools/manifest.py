# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""A manifest of a data set: the digest of each file and image."""

import datetime
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..datasets.remote_shards import shown
from ..utils.data_manifest import (
    MANIFEST_FORMAT,
    MANIFEST_VERSION,
    is_address,
)
from ..utils.errors import printable
from ..utils.regular_files import NotRegularFileError
from ..weights.file_digests import compute_digest
from .find_data import DataPart, common_root, relative_name
from .scan import Scan


class Difference(NamedTuple):
    """A file or image that is not as in the manifest.

    Attributes:
        name: Its name.
        change: ``'changed'``, ``'missing'`` or ``'new'``.
    """

    name: str
    change: str


def build_manifest(
    sources: Sequence[str],
    parts: Sequence[DataPart],
    scan: Scan,
    unfinished: Mapping[str, str],
    folder: 'Path | None' = None,
    on_file: Callable[[], object] = lambda: None,
    digest_of: Callable[[Path], str] = compute_digest,
) -> dict[str, Any]:
    """Build the manifest of data that were read completely.

    Args:
        sources: The sources of the command line.
        parts: The parts.
        scan: What was read of them.
        unfinished: Shards that are not to be trained on, with the reason.
        folder: The folder of the manifest, to which paths are relative;
            None gives absolute ones.
        on_file: Called before each file is read; an exception that it
            raises is passed on.
        digest_of: Returns the SHA-256 of a file.

    Returns:
        ``format``, ``version`` of the format, ``tool`` with its version,
        ``created`` (UTC), ``sources``, ``records``; ``shards`` to train on,
        each with ``samples`` that can be used; ``excluded`` shards with the
        ``reason``; and for ``files`` (the shards too) and ``images`` by path,
        relative to the folder that all sources have in common, ``sha256``
        and ``bytes``. A FIFO, and an image that cannot be read, have
        ``error`` instead; images in shards are not listed.

    Raises:
        OSError: A file cannot be read.
    """
    from .. import __version__

    files: dict[str, dict[str, Any]] = {}
    for name, path in data_files(parts):
        on_file()
        try:
            digest = digest_of(path)
        except NotRegularFileError as error:
            files[name] = dict(error=printable(str(error)))
            continue
        files[name] = dict(sha256=digest, bytes=path.stat().st_size)
    return dict(
        format=MANIFEST_FORMAT,
        version=MANIFEST_VERSION,
        tool=f'minigpt4 {__version__}',
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(
            timespec='seconds'
        ),
        sources=[printable(shown(source)) for source in sources],
        records=scan.num_records,
        **_shards(parts, scan, unfinished, folder),
        files=files,
        images={
            printable(facts.name): dict(
                sha256=facts.digest.hex(), bytes=facts.num_bytes
            )
            if facts.digest
            else dict(error=printable(facts.error or ''))
            for facts in scan.known.files()
        },
    )


def _shards(
    parts: Iterable[DataPart],
    scan: Scan,
    unfinished: Mapping[str, str],
    folder: 'Path | None',
) -> dict[str, list[dict[str, Any]]]:
    """Return the shards to train on, and the excluded ones."""
    listed: list[dict[str, Any]] = []
    excluded: list[dict[str, Any]] = []
    for part in parts:
        for shard in part.shards:
            name = shown(shard)
            if shard not in part.remote:
                name = os.path.abspath(shard)
                if folder is not None:
                    name = os.path.relpath(shard, folder)
            reason = unfinished.get(shard)
            if shard in part.remote and not is_address(shard):
                reason = 'it is a command, which only a config may name'
            elif part.held_out:
                reason = 'it is held out'
            elif not scan.usable[shard]:
                reason = reason or 'no sample of it can be used'
            if reason is None:
                listed.append(dict(shard=name, samples=scan.usable[shard]))
            else:
                excluded.append(dict(shard=name, reason=reason))
    return dict(shards=listed, excluded=excluded)


def data_files(parts: Iterable[DataPart]) -> list[tuple[str, Path]]:
    """Return name and path of the files of records and of local shards.

    The name is the path relative to :func:`~.find_data.common_root`: it is
    unique, and it stays when the data are moved.
    """
    parts = list(parts)
    paths: list[Path] = []
    for part in parts:
        if part.kind == 'records' and part.path.is_file():
            paths.append(part.path)
        paths += [Path(s) for s in part.shards if s not in part.remote]
        if part.kind == 'photos':
            for pattern in ('captions*.json', 'annotations/captions*.json'):
                paths += sorted(part.path.glob(pattern))
    root = common_root(parts)
    return [(printable(relative_name(path, root)), path) for path in paths]


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
