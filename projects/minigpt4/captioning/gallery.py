# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Gallery of caption results: one self-contained HTML page."""

import json
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import Any

from ..images.image_ids import ImageIds
from ..images.read import SampleError
from ..images.thumbnail import data_url, thumbnail_of_file
from ..utils.atomic import replacing
from ..utils.errors import printable
from ..utils.output_paths import check_output_file
from ..utils.regular_files import read_regular
from .results import CaptionResult

THUMBNAIL_SIDE = 192  # pixels; the page displays 128
_QUALITY = 80  # of the JPEG file
_ITEMS_START = '<script type="application/json" id="items">['


def write_gallery(
    results: Iterable[CaptionResult],
    path: Path,
    workers: int = 1,
    references: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Write the page; a failure leaves the old file.

    Args:
        results: Results; those about one image are adjacent.
        path: The HTML file.
        workers: Threads that make thumbnails.
        references: Reference captions by the name of the image file without
            folder and suffix; they are shown below the answers.

    Raises:
        OSError: It cannot be written.
    """
    page = Path(__file__).with_suffix('.html').read_text('utf-8')
    head, start, tail = page.partition(_ITEMS_START)
    with (
        replacing(path) as temporary,
        open(
            temporary, 'w', encoding='utf-8', errors='backslashreplace'
        ) as file,
    ):
        file.write(head + start + '\n')
        for number, item in enumerate(
            _items(results, workers, references or {})
        ):
            file.write(',\n' * bool(number) + _script_json(item))
        file.write('\n' + tail)


def check_gallery(path: Path) -> None:
    """Refuse a page that could not be written at the end of the run.

    Raises:
        OSError: The folder is not writable.
        ValueError: The file exists and is not a gallery.
    """
    check_output_file(path)
    if path.exists() and _ITEMS_START.encode() not in read_regular(path):
        raise ValueError(
            f'{path} exists and is not a gallery; give another name as '
            '--gallery FILE.html.'
        )


def _items(
    results: Iterable[CaptionResult],
    workers: int,
    references: Mapping[str, Sequence[str]],
) -> Iterator[dict[str, Any]]:
    """Yield one item for each image; threads make the thumbnails."""
    ids = ImageIds(references)
    pending: deque[tuple[dict[str, Any], Future[str | None]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for image, group in groupby(results, key=lambda r: r.image):
            answers = [
                [r.prompt, r.caption, r.error and printable(r.error)]
                for r in group
            ]
            item = dict(image=printable(image), answers=answers)
            if (known := ids.find(image)) is not None and references[known]:
                texts = references[known]
                item['references'] = [printable(text) for text in texts]
            pending.append((item, pool.submit(_thumbnail_url, image)))
            if len(pending) > 4 * workers:
                yield _with_thumbnail(*pending.popleft())
        while pending:
            yield _with_thumbnail(*pending.popleft())


def _with_thumbnail(
    item: dict[str, Any], url: 'Future[str | None]'
) -> dict[str, Any]:
    return {**item, 'thumbnail': url.result()}


def _thumbnail_url(path: str) -> str | None:
    """A thumbnail as a data URL; None if the image cannot be read."""
    try:
        return data_url(thumbnail_of_file(path, THUMBNAIL_SIDE, _QUALITY))
    except SampleError:
        return None


def _script_json(item: dict[str, Any]) -> str:
    """JSON without a tag that could end the script element."""
    return json.dumps(item, ensure_ascii=False).replace('<', '\\u003c')
