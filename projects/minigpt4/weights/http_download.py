# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Download one file from one URL, with retries and resumption.

Libraries were tried and lose behaviour: pooch 1.9 cannot resume, and
huggingface_hub's ``http_get`` resumes without ``If-Range``, so that it would
join two versions of a file. tenacity counts attempts, not attempts since the
last new byte, so its stop, wait and retry rules would all be ours.
"""

import errno
import http.client
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit
from urllib.request import Request, urlopen

from mmengine.logging import print_log
from rich.filesize import decimal as format_bytes
from rich.progress import Progress

from ..utils.atomic import write_atomically
from ..utils.progress import progress_bar
from .cache_folder import DISK_FULL

TIMEOUT = 30.0  # seconds without a byte until a connection is closed
WAITS = (1.0, 3.0, 9.0)  # seconds before each retry
_CHUNK_BYTES = 2**20
# request timeout, too early, too many requests, temporary server errors
_RETRY_STATUS = (408, 416, 425, 429, 500, 502, 503, 504)


class MirrorError(Exception):
    """A URL does not provide the file; the message says why."""


def download_url(url: str, part: Path) -> None:
    """Download a file, with retries until no more bytes arrive.

    A download that an earlier call left in ``part`` is resumed if it is of
    the same version of the file; see :func:`part_info_path`.

    Args:
        url: A URL of http, https or file.
        part: The local file to write.

    Raises:
        MirrorError: The URL does not provide the file.
        OSError: ``part`` cannot be written.
    """
    max_size, waits = file_size(part), list(WAITS)
    while True:
        try:
            _download_once(url, part)
            return
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, PermissionError) or (
                isinstance(error, OSError) and error.errno in DISK_FULL
            ):
                raise
            reason = _reason(error)
            status = getattr(error, 'code', None)
            if url.startswith('file:') or (
                status is not None and status not in _RETRY_STATUS
            ):
                raise MirrorError(reason) from error
        if file_size(part) > max_size:  # new bytes: count retries from here
            max_size, waits = file_size(part), list(WAITS)
        if not waits:
            raise MirrorError(f'{reason}, {len(WAITS) + 1} times')
        print_log(
            f'{display_url(url)}: {reason}; trying again in {waits[0]:g} s',
            logger='current',
            level=logging.WARNING,
        )
        time.sleep(waits.pop(0))


def _download_once(url: str, part: Path) -> None:
    """Resume or restart a download in one connection.

    Raises:
        MirrorError: The response is not the file.
        OSError: The connection broke, or ``part`` cannot be written.
        http.client.HTTPException: The response is malformed.
    """
    info_path = part_info_path(part)
    info = read_json_or_empty(info_path)
    start = 0
    # 'place' is the key of version 0.1
    same_url = info.get('url', info.get('place')) == url
    if same_url and info['size'] and info['version']:
        start = file_size(part)
        if start == info['size']:
            return  # complete: an earlier process died after the last byte
    if url.startswith('file:'):
        local = Path(display_url(url))
        if local.exists() and not local.is_file():
            raise MirrorError('it is not a regular file')
    headers = {'User-Agent': 'minigpt4', 'Accept-Encoding': 'identity'}
    if start:
        headers |= {
            'Range': f'bytes={start}-',
            'If-Range': info['version'],
        }
    try:
        response = urlopen(Request(url, headers=headers), timeout=TIMEOUT)
    except HTTPError as error:
        if error.code == 416:  # the part is longer than the file
            part.unlink(missing_ok=True)
        raise
    with response:
        if 'html' in response.headers.get('Content-Type', ''):
            raise MirrorError('a web page came instead of the file')
        if getattr(response, 'status', None) != 206:
            start = 0
        elif not _continues_part(response.headers, start, info):
            part.unlink(missing_ok=True)
            raise ConnectionError('the server sent another range of bytes')
        if start == 0:
            part.unlink(missing_ok=True)
            length = response.headers.get('Content-Length')
            info = dict(
                url=url,
                version=_version(response.headers),
                size=None if length is None else int(length),
            )
            write_atomically(info_path, json.dumps(info).encode())
        size = info['size']
        free = shutil.disk_usage(part.parent).free
        if size is not None and size - start > free:
            raise OSError(
                errno.ENOSPC,
                f'{format_bytes(size)} needed, {format_bytes(free)} free',
            )
        print_log(
            f'downloading {display_url(url)} '
            f'({format_bytes(size) if size else "of unknown size"}'
            f'{f", from byte {start:,} on" if start else ""})',
            logger='current',
        )
        with open(part, 'ab') as file, _progress(part, start, size) as bar:
            while chunk := response.read1(_CHUNK_BYTES):
                file.write(chunk)
                bar.advance(bar.task_ids[0], len(chunk))
            file.flush()
            os.fsync(file.fileno())
    if size is not None and file_size(part) != size:
        raise ConnectionError(
            f'cut off at {file_size(part):,} of {size:,} bytes'
        )


def _continues_part(
    headers: Mapping[str, str], start: int, info: dict[str, Any]
) -> bool:
    """Whether a response is the rest of the same version of the file.

    Args:
        headers: The headers of the response.
        start: Bytes in the part.
        info: The content of :func:`part_info_path`.
    """
    content_range = headers.get('Content-Range', '')
    pattern = rf'bytes {start}-\d+/{info.get("size")}$'
    return (
        re.match(pattern, content_range) is not None
        and _version(headers) == info['version']
    )


def _version(headers: Mapping[str, str]) -> str | None:
    """Return what identifies the version of a file, for ``If-Range``."""
    tag = headers.get('ETag')
    if tag and not tag.startswith('W/'):
        return tag
    return headers.get('Last-Modified')


def part_info_path(part: Path) -> Path:
    """Return the JSON file with ``url, version, size`` of a part's file."""
    return part.with_name(f'{part.name}.json')


def _progress(part: Path, start: int, size: int | None) -> Progress:
    """Make a progress bar on standard error; hidden if it is no terminal."""
    bar = progress_bar(in_bytes=True)
    bar.add_task(part.stem, total=size, completed=start)
    return bar


def _reason(error: BaseException) -> str:
    """Describe an error of a connection in a few words."""
    if isinstance(error, HTTPError):
        return f'HTTP {error.code} {error.reason}'
    if isinstance(error, URLError) and not isinstance(error.reason, str):
        error = error.reason
    if isinstance(error, TimeoutError):
        return f'no answer for {TIMEOUT:g} s'
    return getattr(error, 'strerror', None) or str(error) or repr(error)


def display_url(url: str) -> str:
    """Format a URL for a message: without its query, which may hold a token.

    A file URL becomes a path.
    """
    if url.startswith('file:'):
        return unquote(urlsplit(url).path)
    return url.partition('?')[0]


def read_json_or_empty(path: Path) -> dict[str, Any]:
    """Read a JSON object; return an empty dict if there is none."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def file_size(path: Path) -> int:
    """Return the bytes of a file; 0 if there is none."""
    return path.stat().st_size if path.exists() else 0
