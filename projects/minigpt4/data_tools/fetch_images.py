# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Fetch the images of records that name URLs."""

import asyncio
import hashlib
from collections.abc import Collection, Iterable
from pathlib import Path

from ..images.errors import ImageError
from ..images.fetch import ImageFetcher
from ..utils.atomic import write_atomically
from ..utils.progress import progress_bar
from .image_bytes import suffix_of

MAX_BYTES = 1 << 26
_SECONDS = 30.0
_CONCURRENT = 16
_ATTEMPTS = 2


def fetch_images(
    urls: Iterable[str],
    folder: Path,
    hosts: Collection[str] | None = None,
    visible: bool = True,
) -> dict[str, 'Path | str']:
    """Fetch images; those that the folder has are not fetched again.

    Args:
        urls: The URLs.
        folder: The folder to write into; a file is named by the digest of
            its URL.
        hosts: The only hosts to fetch from; they may be in a private
            network. None allows every public host.
        visible: Whether to show progress.

    Returns:
        For each URL its file, or the reason why it was not fetched.

    Raises:
        OSError: A file cannot be written, e.g. on a full disk.
    """
    fetcher = ImageFetcher(
        MAX_BYTES, _SECONDS, hosts, fallback='remove the record'
    )
    unique = list(dict.fromkeys(urls))
    return asyncio.run(_fetch_all(fetcher, unique, folder, visible))


async def _fetch_all(
    fetcher: ImageFetcher, urls: list[str], folder: Path, visible: bool
) -> dict[str, 'Path | str']:
    found: dict[str, Path | str] = {}
    present = {path.stem: path for path in folder.glob('*.*')}
    waiting = iter(urls)
    with progress_bar(visible=visible) as bar:
        task = bar.add_task('fetch images', total=len(urls))

        async def work() -> None:
            for url in waiting:
                found[url] = await _fetch(fetcher, url, folder, present)
                bar.advance(task)

        await asyncio.gather(*(work() for _ in range(_CONCURRENT)))
    return found


async def _fetch(
    fetcher: ImageFetcher, url: str, folder: Path, present: dict[str, Path]
) -> 'Path | str':
    stem = hashlib.sha256(url.encode()).hexdigest()[:32]
    if stem in present:
        return present[stem]
    error: Exception
    for _ in range(_ATTEMPTS):
        try:
            data = await fetcher.fetch(url)
        except ImageError as reason:
            error = reason
            continue
        suffix = suffix_of(data)
        if suffix is None:
            return f'{url} is no image'
        path = folder / f'{stem}.{suffix}'
        write_atomically(path, data)
        return path
    return str(error)
