# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Write texts under review as one HTML page or as a CSV table.

The page has everything in one file and needs no network; a person decides in
it and downloads a file that :mod:`.review_import` reads. So does the table,
after its columns ``decision``, ``new_text`` and ``note`` are filled in.
"""

import csv
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..captioning.csv_escaping import protected_cell
from ..images.thumbnail import data_url
from ..utils.atomic import replacing
from ..utils.errors import printable
from .added_files import ImageProblem, read_added
from .ledger import LedgerImage
from .review_images import not_displayed, reduced_image
from .review_import import COLUMNS
from .review_item import ReviewItem, load_items
from .review_page import page_file
from .review_queue import ReviewQueue

IMAGE_SIDE = 800  # pixels
_QUALITY = 80  # of JPEG
_CHUNK = 64  # texts in memory
_POLICY = (
    '<meta http-equiv="Content-Security-Policy" content="default-src '
    "'none'; img-src data:; style-src 'unsafe-inline'; script-src "
    "'unsafe-inline'\">"
)
_STYLE = '<link rel="stylesheet" href="page.css">'
_SCRIPTS = '<script src="server.js"></script>\n<script src="page.js"></script>'


def write_review(
    queue: ReviewQueue,
    ids: Sequence[int],
    path: Path,
    reviewer: str = '',
    side: int = IMAGE_SIDE,
) -> list[ImageProblem]:
    """Write texts in their order; a file that exists is replaced.

    An image that is missing, unreadable or no longer the one that was added
    is omitted, and the reviewer reads why.

    Args:
        queue: The texts under review.
        ids: Numbers of their images.
        path: The file; its suffix is ``.html`` or ``.csv``.
        reviewer: Name of the person who will decide.
        side: The longer side of the images in HTML, in pixels.

    Returns:
        The problems of the images that are omitted.

    Raises:
        OSError: It cannot be written.
        ValueError: The suffix is another one.
    """
    suffix = path.suffix.lower()
    if suffix not in ('.html', '.csv'):
        raise ValueError(
            f'{printable(str(path))} is neither .html nor .csv; give one of '
            'them.'
        )
    with replacing(path) as temporary:
        if suffix == '.csv':
            return _write_csv(queue, ids, Path(temporary), reviewer)
        return _write_html(queue, ids, Path(temporary), reviewer, side)


def item_json(item: ReviewItem) -> dict[str, Any]:
    """What a review page displays of a text, without its image."""
    details = item.image.details
    return dict(
        image=item.image.id,
        reviewed=item.digest,
        name=printable(Path(item.image.path).name),
        about={
            name: str(details[name])
            for name in ('source', 'licence')
            if details.get(name)
        },
        text=item.text,
        stages=item.stages(),
        flags=item.flags,
    )


def image_url(image: LedgerImage, side: int) -> str:
    """A reduced image as a data URL.

    Raises:
        ImageProblem: The file is missing, cannot be read, or is not the one
            that was added.
    """
    return data_url(reduced_image(image, side, _QUALITY))


def flag_lines(item: ReviewItem, problem: ImageProblem | None) -> str:
    """What a person should look at, one line each; also an image problem."""
    lines = [flag['text'] for flag in item.flags]
    if problem is not None:
        lines.insert(0, not_displayed(problem))
    return '\n'.join(lines)


def ledger_name(queue: ReviewQueue) -> str:
    """A short name of the ledger, for the storage of the browser."""
    path = str(queue.ledger.path.resolve())
    data = path.encode(errors='surrogateescape')
    return hashlib.sha256(data).hexdigest()[:16]


def _items(queue: ReviewQueue, ids: Sequence[int]) -> Iterator[ReviewItem]:
    for start in range(0, len(ids), _CHUNK):
        part = ids[start : start + _CHUNK]
        yield from load_items(queue.ledger, queue.steps, part)


def _write_html(
    queue: ReviewQueue,
    ids: Sequence[int],
    path: Path,
    reviewer: str,
    side: int,
) -> list[ImageProblem]:
    problems = []
    head, _, tail = page_file('page.html').partition(_SCRIPTS)
    head = head.replace(
        _STYLE, f'{_POLICY}\n<style>\n{page_file("page.css")}</style>'
    )
    with open(path, 'w', encoding='utf-8', errors='backslashreplace') as file:
        file.write(head)
        about = dict(ledger=ledger_name(queue), reviewer=reviewer)
        file.write(_script('about', about))
        for place, item in enumerate(_items(queue, ids), 1):
            url, problem = None, ''
            try:
                url = image_url(item.image, side)
            except ImageProblem as error:
                problems.append(error)
                problem = not_displayed(error)
            content = dict(
                item_json(item),
                digest=item.image.digest,
                url=url,
                problem=problem,
                place=place,
                risk=queue.risk(item.image.id),
            )
            file.write(_script('item', content))
        for name in ('offline.js', 'page.js'):
            file.write(f'<script>\n{page_file(name)}</script>\n')
        file.write(tail)
    return problems


def _script(kind: str, content: dict[str, Any]) -> str:
    """JSON in a script element, without a tag that could end it."""
    data = json.dumps(content, ensure_ascii=False).replace('<', '\\u003c')
    number = content.get('image', '')
    return (
        f'<script type="application/json" class="{kind}" '
        f'data-image="{number}">{data}</script>\n'
    )


def _write_csv(
    queue: ReviewQueue, ids: Sequence[int], path: Path, reviewer: str
) -> list[ImageProblem]:
    problems = []
    with open(
        path,
        'w',
        encoding='utf-8-sig',  # so that spreadsheets read UTF-8
        errors='backslashreplace',
        newline='',
    ) as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for item in _items(queue, ids):
            problem = None
            try:
                read_added(item.image)
            except ImageProblem as error:
                problems.append(problem := error)
            cells = (
                item.image.digest,
                Path(item.image.path).name,
                flag_lines(item, problem),
                item.text,
                reviewer,
                '',
                '',
                '',
                item.digest,
            )
            writer.writerow(map(protected_cell, cells))
    return problems
