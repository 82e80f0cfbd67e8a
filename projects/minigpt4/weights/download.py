# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Fetching a file of weights once: resumed, checked, from mirrors, offline."""

import errno
import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from filelock import AcquireReturnProxy, FileLock, Timeout
from mmengine.logging import print_log

from ..utils.atomic import write_atomically
from ..utils.file_types import unexpected_content
from .transfer import (
    FULL,
    MirrorError,
    bring,
    note_of,
    read_json,
    shown,
    size_of,
)

_CHUNK = 2**20
# OpenMMLab's names end on a date and 8 digits of the SHA-256
_NAMED_HASH = re.compile(r'_\d{8}-([0-9a-f]{8})\.\w+$')
_CONTENTS = {
    'empty': 'an empty file',
    'LFS pointer': 'a Git LFS pointer instead of the file',
    'HTML': 'a web page instead of the file',
    'XML': 'a web page instead of the file',
    'zeros': 'a file that begins with zeros',
}


def fetch(
    url: str,
    *,
    sha256: str | None = None,
    folder: 'Path | None' = None,
    mirrors: Sequence[str] = (),
) -> Path:
    """The local copy of a file, which is downloaded if it is not there yet.

    A mirror is a URL or a folder under which files lie by their bare names.
    Those of ``MINIGPT4_MIRROR`` (separated by commas) are tried first, then
    ``mirrors``, then the URL itself. With ``MINIGPT4_OFFLINE=1`` or
    ``HF_HUB_OFFLINE=1`` only mirrors that are folders are.

    What arrives is compared with ``sha256``, else with the 8 digits in names
    such as ``..._20230615-714b5f52.pth``, else only with the size that the
    server announced. Its size and SHA-256 are recorded beside it in
    ``NAME.json``, so it is read through once and not at each start. A broken
    download is resumed if its place still has the same file. Processes that
    want the same file wait for the one that fetches it.

    Args:
        url: Where the file is published (http or https).
        sha256: Its SHA-256, or the beginning of it, where one is published.
        folder: Where it goes; by default :func:`cache_folder`.
        mirrors: More mirrors.

    Returns:
        The file, under the URL's bare name.

    Raises:
        ConnectionError: No place gave the right file; each is named with its
            reason.
        FileExistsError: The folder has a file of this name from another URL.
        OSError: It cannot be written: no space, no permission.
        ValueError: The URL names no file, or the hash is none.
    """
    name = file_name(url)
    if urlsplit(url).scheme not in ('http', 'https') or not name:
        raise ValueError(
            f'{url} is no http or https address of a file; give one, or the '
            'path of a local file.'
        )
    path = (folder or cache_folder()).expanduser() / name
    wanted = expected_hash(url, sha256)
    if _is_checked(path, url, wanted):
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _lock(path):
            # another process may have been faster
            if not _is_checked(path, url, wanted):
                _obtain(path, url, wanted, mirrors)
    except OSError as error:
        if isinstance(error, PermissionError) or error.errno == errno.EROFS:
            raise PermissionError(
                f'{path.parent} cannot be written ({error.strerror}); name '
                'another folder in MINIGPT4_CACHE.'
            ) from error
        if error.errno in FULL:
            raise OSError(
                error.errno,
                f'no space for {name} in {path.parent} ({error.strerror}); '
                'free some or name another folder in MINIGPT4_CACHE: what has '
                'arrived is kept',
            ) from error
        raise
    return path


def file_name(url: str) -> str:
    """The bare name of a URL's file."""
    return Path(unquote(urlsplit(url).path)).name


def cache_folder() -> Path:
    """Where files go: ``MINIGPT4_CACHE``, else ``~/.cache/minigpt4``.

    ``XDG_CACHE_HOME`` stands in for ``~/.cache``.
    """
    if os.environ.get('MINIGPT4_CACHE'):
        return Path(os.environ['MINIGPT4_CACHE']).expanduser()
    home = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
    return Path(home).expanduser() / 'minigpt4'


def expected_hash(url: str, sha256: str | None = None) -> str | None:
    """The published SHA-256 of a file, or its first digits, or None.

    Raises:
        ValueError: What was given is no SHA-256.
    """
    if sha256:
        if not re.fullmatch('[0-9a-fA-F]{1,64}', sha256):
            raise ValueError(
                f'{sha256!r} is no SHA-256; give up to 64 hexadecimal digits, '
                'without anything in front.'
            )
        return sha256.lower()
    named = _NAMED_HASH.search(urlsplit(url).path)
    return named[1] if named else None


def is_offline() -> bool:
    """Whether the user forbids the network."""
    return any(
        os.environ.get(variable, '').lower() in ('1', 'on', 'true', 'yes')
        for variable in ('MINIGPT4_OFFLINE', 'HF_HUB_OFFLINE')
    )


def record_of(path: Path) -> dict:
    """What is recorded of a fetched file, if it has not changed since.

    Returns:
        ``url, place, size, mtime_ns, sha256, checked``; empty without one.
    """
    record = read_json(_record_path(path))
    try:
        found = path.stat()
    except OSError:
        return {}
    same = (found.st_size, found.st_mtime_ns) == (
        record.get('size'),
        record.get('mtime_ns'),
    )
    return record if same else {}


def _is_checked(path: Path, url: str, wanted: str | None) -> bool:
    record = record_of(path)
    if not record or not record['sha256'].startswith(wanted or ''):
        return False
    if record['url'] != url and wanted is None:
        raise FileExistsError(
            f'{path} was fetched from {shown(record["url"])}, not from '
            f'{shown(url)}; move it away, or name another folder in '
            'MINIGPT4_CACHE.'
        )
    return True


def _obtain(
    path: Path, url: str, wanted: str | None, mirrors: Sequence[str]
) -> None:
    """Make ``path`` the right file, or raise."""
    reasons = []
    if path.is_file():
        try:
            _accept(path, path, url, 'found there', wanted)
            return
        except MirrorError as reason:
            aside = path.with_name(f'{path.name}.wrong')
            os.replace(path, aside)
            reasons.append(f'{path}: {reason} (renamed {aside.name})')
            print_log(reasons[-1], logger='current', level=logging.WARNING)
    part = path.with_name(f'{path.name}.part')
    for place in _places(url, mirrors):
        if is_offline() and not place.startswith('file:'):
            reasons.append(f'{shown(place)}: not asked, for this is offline')
            continue
        try:
            bring(place, part)
            _accept(part, path, url, place, wanted)
            return
        except MirrorError as reason:
            reasons.append(f'{shown(place)}: {reason}')
            print_log(reasons[-1], logger='current', level=logging.WARNING)
    raise ConnectionError(
        f'{path.name} could not be fetched ({"; ".join(reasons)}); get it '
        f'some other way and put it at {path}, or name a folder or URL that '
        'has it in MINIGPT4_MIRROR.'
    )


def _places(url: str, mirrors: Sequence[str]) -> Iterator[str]:
    """The addresses to try, in order."""
    name = quote(file_name(url))
    own = os.environ.get('MINIGPT4_MIRROR', '').split(',')
    for base in filter(None, (base.strip() for base in (*own, *mirrors))):
        if '://' not in base:
            base = Path(base).expanduser().absolute().as_uri()
        yield f'{base.rstrip("/")}/{name}'
    yield url


def _accept(
    file: Path, path: Path, url: str, place: str, wanted: str | None
) -> None:
    """Check a file, record what it is and give it its name.

    Raises:
        MirrorError: It is not what it should be. A download is removed.
    """
    digest = hashlib.sha256()
    with open(file, 'rb') as stream:
        head = stream.read(_CHUNK)
        digest.update(head)
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    found = digest.hexdigest()
    reason = _CONTENTS.get(unexpected_content(head) or '', '')
    if not reason and wanted and not found.startswith(wanted):
        reason = (
            f'another file: its SHA-256 begins with {found[: len(wanted)]}, '
            f'expected {wanted} ({size_of(file):,} bytes)'
        )
    note = note_of(file)
    announced = file != path and read_json(note).get('size') is not None
    if file != path:
        note.unlink(missing_ok=True)
    if reason:
        if file != path:
            file.unlink()
        raise MirrorError(reason)
    os.replace(file, path)
    stat = path.stat()
    record = dict(
        url=url,
        place=place,
        size=stat.st_size,
        mtime_ns=stat.st_mtime_ns,
        sha256=found,
        checked=how_checked(wanted, announced),
    )
    write_atomically(
        _record_path(path), f'{json.dumps(record, indent=2)}\n'.encode()
    )
    print_log(
        f'{path}: {stat.st_size:,} bytes, SHA-256 {found}; checked: '
        f'{record["checked"]}',
        logger='current',
    )


def how_checked(wanted: str | None, announced: bool = True) -> str:
    """What a file is compared with, in words.

    Args:
        wanted: See :func:`expected_hash`.
        announced: Whether a server says how large it is.
    """
    if wanted is None:
        what = 'size only' if announced else 'nothing'
        return f'{what}: no published hash'
    if len(wanted) < 64:
        return f'{len(wanted)} digits of its SHA-256'
    return 'its SHA-256'


def _lock(path: Path) -> AcquireReturnProxy:
    """Held until the end of a ``with``; says so when it has to wait."""
    lock = FileLock(path.with_name(f'.{path.name}.lock'))
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        print_log(
            f'waiting for another process that fetches {path.name}',
            logger='current',
        )
        return lock.acquire()


def _record_path(path: Path) -> Path:
    return path.with_name(f'{path.name}.json')
