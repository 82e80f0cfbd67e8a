# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""One file from one address, in as many connections as it takes."""

import errno
import http.client
import json
import logging
import os
import re
import shutil
import sys
import time
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit
from urllib.request import Request, urlopen

from mmengine.logging import print_log
from rich.console import Console
from rich.filesize import decimal as in_units
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from ..utils.atomic import write_atomically

TIMEOUT = 30.0  # seconds without a byte before a connection is given up
WAITS = (1.0, 3.0, 9.0)  # seconds before each new try
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_CHUNK = 2**20
# too early, too busy, and the faults that a server may recover from
_WORTH_ANOTHER_TRY = (408, 416, 425, 429, 500, 502, 503, 504)


class MirrorError(Exception):
    """A place does not give the file; its text says why."""


def bring(place: str, part: Path) -> None:
    """Bring what lies at ``place`` to ``part``, as often as it takes.

    What an earlier call left in ``part`` is gone on with, if it is of the
    same file; :func:`note_of` tells which.

    Args:
        place: An address of http, https or file.
        part: Where to.

    Raises:
        MirrorError: It cannot be had there.
        OSError: It cannot be written.
    """
    most, waits = size_of(part), list(WAITS)
    while True:
        try:
            _read(place, part)
            return
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, PermissionError) or (
                isinstance(error, OSError) and error.errno in FULL
            ):
                raise
            reason = _reason(error)
            status = getattr(error, 'code', None)
            if place.startswith('file:') or (
                status is not None and status not in _WORTH_ANOTHER_TRY
            ):
                raise MirrorError(reason) from error
        if size_of(part) > most:  # tries are counted from the last new byte
            most, waits = size_of(part), list(WAITS)
        if not waits:
            raise MirrorError(f'{reason}, {len(WAITS) + 1} times')
        print_log(
            f'{shown(place)}: {reason}; trying again in {waits[0]:g} s',
            logger='current',
            level=logging.WARNING,
        )
        time.sleep(waits.pop(0))


def _read(place: str, part: Path) -> None:
    """One connection: go on with ``part``, or start it anew."""
    note = note_of(part)
    known = read_json(note)
    start = 0
    if known.get('place') == place and known['size'] and known['version']:
        start = size_of(part)
        if start == known['size']:
            return  # all of it had come when an earlier process died
    local = Path(shown(place)) if place.startswith('file:') else None
    if local is not None and local.exists() and not local.is_file():
        raise MirrorError('it is not a regular file')
    headers = {'User-Agent': 'minigpt4', 'Accept-Encoding': 'identity'}
    if start:
        headers |= {
            'Range': f'bytes={start}-',
            'If-Range': known['version'],
        }
    try:
        answer = urlopen(Request(place, headers=headers), timeout=TIMEOUT)
    except HTTPError as error:
        if error.code == 416:  # the part is longer than the file
            part.unlink(missing_ok=True)
        raise
    with answer:
        if 'html' in answer.headers.get('Content-Type', ''):
            raise MirrorError('a web page came instead of the file')
        if getattr(answer, 'status', None) != 206:
            start = 0
        elif not _goes_on(answer.headers, start, known):
            part.unlink(missing_ok=True)
            raise ConnectionError('it sent a piece that was not asked for')
        if start == 0:
            part.unlink(missing_ok=True)
            length = answer.headers.get('Content-Length')
            known = dict(
                place=place,
                version=_version(answer.headers),
                size=None if length is None else int(length),
            )
            write_atomically(note, json.dumps(known).encode())
        size = known['size']
        free = shutil.disk_usage(part.parent).free
        if size is not None and size - start > free:
            raise OSError(
                errno.ENOSPC, f'{in_units(size)} wanted, {in_units(free)} free'
            )
        print_log(
            f'fetching {shown(place)} '
            f'({in_units(size) if size else "of unknown size"}'
            f'{f", from byte {start:,} on" if start else ""})',
            logger='current',
        )
        with open(part, 'ab') as file, _bar(part, start, size) as bar:
            while chunk := answer.read1(_CHUNK):
                file.write(chunk)
                bar.advance(bar.task_ids[0], len(chunk))
            file.flush()
            os.fsync(file.fileno())
    if size is not None and size_of(part) != size:
        raise ConnectionError(
            f'cut off at {size_of(part):,} of {size:,} bytes'
        )


def _goes_on(headers, start: int, known: dict) -> bool:
    """Whether an answer is the rest of what is there, of the same file."""
    sent = headers.get('Content-Range', '')
    return (
        re.match(rf'bytes {start}-\d+/{known.get("size")}$', sent) is not None
        and _version(headers) == known['version']
    )


def _version(headers) -> str | None:
    """What tells one version of a file from another, for If-Range."""
    tag = headers.get('ETag')
    if tag and not tag.startswith('W/'):
        return tag
    return headers.get('Last-Modified')


def note_of(part: Path) -> Path:
    """Where is noted what a part is of: ``place, version, size``."""
    return part.with_name(f'{part.name}.json')


def _bar(part: Path, start: int, size: int | None) -> Progress:
    bar = Progress(
        TextColumn('{task.description}'),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
    )
    bar.add_task(part.stem, total=size, completed=start)
    return bar


def _reason(error: BaseException) -> str:
    if isinstance(error, HTTPError):
        return f'HTTP {error.code} {error.reason}'
    if isinstance(error, URLError) and not isinstance(error.reason, str):
        error = error.reason
    if isinstance(error, TimeoutError):
        return f'no answer for {TIMEOUT:g} s'
    return getattr(error, 'strerror', None) or str(error) or repr(error)


def shown(place: str) -> str:
    """An address without its query, which may hold a token."""
    if place.startswith('file:'):
        return unquote(urlsplit(place).path)
    return place.partition('?')[0]


def read_json(path: Path) -> dict:
    """An object in a JSON file; empty where there is none."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def size_of(path: Path) -> int:
    """Bytes of a file; 0 where there is none."""
    return path.stat().st_size if path.exists() else 0
