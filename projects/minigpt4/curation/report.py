# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The report of a curation: one self-contained HTML page.

Every text of the ledger is escaped, and the page runs no script.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..images.thumbnail import data_url
from ..utils.html_page import HtmlPage, html_text
from .added_files import ImageProblem
from .ledger import LedgerImage
from .report_tables import (
    Row,
    cost_rows,
    failure_rows,
    funnel_rows,
    length_rows,
    repair_rows,
    review_rows,
)
from .review_images import reduced_image
from .selection import Selection
from .statistics import Example, Numbers, Reason

_THUMBNAIL_SIDE, _QUALITY = 192, 80  # pixels; JPEG quality
_SHOWN = 1200  # characters of a text
_PAGE = HtmlPage(
    'Curation report',
    'a report of a curation',
    style="""
td.b { width: 16rem; }
.bar { background: var(--ours); height: .8rem; border-radius: 3px; }
figure img, .none { flex-basis: 128px; width: 128px; height: 96px; }
""",
)


def write_report(
    path: Path, numbers: Numbers, selection: Selection, title: str
) -> None:
    """Write the page; a failure leaves the old file.

    Args:
        path: The HTML file.
        numbers: The numbers of the curation.
        selection: What an export would contain.
        title: Title of the page.

    Raises:
        OSError: It cannot be written.
    """
    _PAGE.write(path, _content(numbers, selection, title))


def check_report(path: Path) -> None:
    """Refuse to replace a file that is no report.

    Raises:
        ValueError: The file exists and is not a report of a curation.
    """
    _PAGE.check(path)


def _content(
    numbers: Numbers, selection: Selection, title: str
) -> Iterator[str]:
    yield f'<h1>{html_text(title)}</h1>'
    yield '<h2>Funnel</h2>'
    yield from _funnel(funnel_rows(numbers, selection))
    yield '<h2>Dropped images</h2>'
    yield from _reasons(numbers.drops, 'No rule dropped an image.')
    yield '<h2>Failures</h2>'
    yield from _table(
        ('step', 'reason', 'images'),
        failure_rows(numbers),
        'No image failed.',
    )
    yield '<h2>Repair</h2>'
    yield from _table(('', ''), repair_rows(numbers), 'No text was repaired.')
    for example in numbers.repairs:
        yield _figure(example)
    yield '<h2>Flags</h2>'
    yield from _reasons(numbers.flags, 'No text has a flag.')
    yield '<h2>Lengths in words</h2>'
    yield from _table(
        ('texts', 'number', 'shortest', 'median', 'mean', 'longest'),
        length_rows(numbers),
        'There is no text.',
    )
    yield '<h2>Cost</h2>'
    yield from _table(
        ('step', 'USD', 'prompt tokens', 'answer tokens', 'seconds'),
        cost_rows(numbers),
        'No step states its cost.',
    )
    yield '<h2>Review</h2>'
    yield from _table(
        ('', ''), review_rows(numbers, selection), 'No text was reviewed.'
    )
    yield '<h2>Sources</h2>'
    yield from _table(
        ('source', 'licence', 'images'),
        [
            (source or 'not stated', licence or 'not stated', f'{count:,}')
            for source, licence, count in numbers.sources
        ],
        'There is no image.',
    )
    yield '<h2>Settings</h2>'
    for step in numbers.steps:
        settings = json.dumps(step.settings, ensure_ascii=False, indent=1)
        yield f'<details><summary>{html_text(step.name)}</summary>'
        yield f'<pre>{html_text(settings)}</pre></details>'


def _funnel(rows: Sequence[Row]) -> Iterator[str]:
    yield '<table><tr><th>step</th><th class="n">images</th>'
    yield '<th class="n">share</th><th></th><th class="n">paper</th></tr>'
    for name, images, share, paper in rows:
        width = share.rstrip(' %') or '0'
        yield (
            f'<tr><td>{html_text(name)}</td><td class="n">{images}</td>'
            f'<td class="n">{share}</td><td class="b">'
            f'<div class="bar" style="width:{width}%"></div></td>'
            f'<td class="n">{html_text(paper)}</td></tr>'
        )
    yield '</table>'


def _table(
    head: Sequence[str], rows: Sequence[Row], none: str
) -> Iterator[str]:
    if not rows:
        yield f'<p class="dim">{html_text(none)}</p>'
        return
    yield '<table>'
    if any(head):
        cells = ''.join(f'<th>{html_text(cell)}</th>' for cell in head)
        yield f'<tr>{cells}</tr>'
    for row in rows:
        cells = ''.join(f'<td>{html_text(cell)}</td>' for cell in row)
        yield f'<tr>{cells}</tr>'
    yield '</table>'


def _reasons(reasons: Sequence[Reason], none: str) -> Iterator[str]:
    if not reasons:
        yield f'<p class="dim">{html_text(none)}</p>'
    for reason in reasons:
        yield f'<h3>{html_text(reason.name)}: {reason.number:,}</h3>'
        for example in reason.examples:
            yield _figure(example)


def _figure(example: Example) -> str:
    """An image with its texts."""
    lines = [
        f'<p class="dim">{html_text(Path(example.image.path).name)}'
        f' (image {example.image.id})</p>'
    ]
    if example.note:
        lines.append(f'<p><b>{html_text(example.note)}</b></p>')
    for label, text in (('', example.text), ('After: ', example.after)):
        if text:
            shown = text[:_SHOWN] + '…' * (len(text) > _SHOWN)
            lines.append(f'<p>{label}{html_text(shown)}</p>')
    caption = ''.join(lines)
    return (
        f'<figure>{_thumbnail(example.image)}'
        f'<figcaption>{caption}</figcaption></figure>'
    )


def _thumbnail(image: LedgerImage) -> str:
    try:
        url = data_url(reduced_image(image, _THUMBNAIL_SIDE, _QUALITY))
    except ImageProblem:
        return '<div class="none"></div>'
    return f'<img alt="" src="{url}">'
