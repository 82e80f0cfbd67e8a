# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The answers about many pictures as one page that needs nothing else."""

import base64
import errno
import io
import json
import os
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby
from pathlib import Path

from PIL import Image

from ..images.read import read_image
from ..utils.atomic import replacing
from ..utils.errors import printable
from ..utils.regular_files import open_regular, read_regular
from .table import CaptionRow, make_folder

SIDE = 192  # pixels of a thumbnail; the page shows it at 128
_PLACE = '<script type="application/json" id="items">['


def write_gallery(
    rows: Iterable[CaptionRow], path: Path, workers: int = 1
) -> None:
    """Write the page, whole or not at all.

    Args:
        rows: Rows; those about one picture stand together.
        path: Where to.
        workers: Threads that draw thumbnails.

    Raises:
        OSError: It cannot be written.
    """
    page = Path(__file__).with_suffix('.html').read_text('utf-8')
    head, place, tail = page.partition(_PLACE)
    with (
        replacing(path) as part,
        open(part, 'w', encoding='utf-8', errors='backslashreplace') as file,
    ):
        file.write(head + place + '\n')
        for number, item in enumerate(_items(rows, workers)):
            file.write(',\n' * bool(number) + _in_script(item))
        file.write('\n' + tail)


def check_gallery(path: Path) -> None:
    """Refuse before the work what could not be written after it.

    Raises:
        OSError: The folder may not be written.
        ValueError: Something else than a gallery is there.
    """
    make_folder(path.parent)
    if not os.access(path.parent, os.W_OK):
        raise PermissionError(
            errno.EACCES, os.strerror(errno.EACCES), str(path.parent)
        )
    if path.is_dir() or (
        path.exists() and _PLACE.encode() not in read_regular(path)
    ):
        raise ValueError(
            f'{path} is there and is no gallery; give another name as '
            '--gallery FILE.html.'
        )


def _items(rows: Iterable[CaptionRow], workers: int) -> Iterator[dict]:
    """One item for each picture, thumbnails drawn in threads."""
    waiting: deque[tuple[dict, Future[str | None]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for image, group in groupby(rows, key=lambda row: row.image):
            answers = [
                [r.prompt, r.caption, r.error and printable(r.error)]
                for r in group
            ]
            item = dict(image=printable(image), answers=answers)
            waiting.append((item, pool.submit(thumbnail, image)))
            if len(waiting) > 4 * workers:
                yield _finished(*waiting.popleft())
        while waiting:
            yield _finished(*waiting.popleft())


def _finished(item: dict, drawn: 'Future[str | None]') -> dict:
    return {**item, 'thumbnail': drawn.result()}


def thumbnail(path: str) -> str | None:
    """A picture as a small data URL; None if it cannot be read now."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', Image.DecompressionBombWarning)
            with open_regular(path) as file, Image.open(file) as image:
                # a JPEG is decoded small, which is several times as fast
                image.draft('RGB', (2 * SIDE, 2 * SIDE))
                small = read_image(image, path)
    except Exception:  # Pillow raises many kinds on broken files
        return None
    small.thumbnail((SIDE, SIDE))
    data = io.BytesIO()
    small.save(data, 'JPEG', quality=80)
    return (
        f'data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}'
    )


def _in_script(item: dict) -> str:
    """JSON that cannot end the script that it stands in."""
    return json.dumps(item, ensure_ascii=False).replace('<', '\\u003c')
