# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The page of a comparison: one self-contained HTML file.

Every text is escaped, and the page runs no script.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..images.formats import SUFFIXES
from ..images.image_ids import image_id
from ..images.read import SampleError
from ..images.thumbnail import data_url, thumbnail_of_file
from ..utils.html_page import HtmlPage, html_text
from .compare import Comparison, Pair
from .compare_tables import (
    folder_lines,
    good_line,
    score_rows,
    setting_rows,
)
from .compared_protocol import Sample

MOST = 200  # samples on the page
_SHOWN = 2000  # characters of a text
_SIDE, _QUALITY = 240, 80  # of thumbnails, in pixels; of JPEG
_PAGE = HtmlPage(
    'Comparison of two evaluations',
    'a page of "minigpt4 compare"',
    style="""
body { max-width: 1200px; overflow-wrap: anywhere; }
td.n, th.n { white-space: nowrap; }
section { border-top: 1px solid var(--line); padding: 1rem 0; display: grid;
  grid-template-columns: 160px 1fr 1fr; gap: .4rem 1rem; }
section > .head { grid-column: 1 / -1; }
section img { width: 160px; height: 120px; object-fit: contain;
  background: #8882; border-radius: 6px; }
p { margin: 0 0 .4rem; white-space: pre-line; }
""",
)


def write_page(
    path: Path, comparison: Comparison, images: Path | None = None
) -> None:
    """Write the page; a failure leaves the old file.

    Args:
        path: The HTML file.
        comparison: What it displays; of the samples the first :data:`MOST`.
        images: The folder of the images, for thumbnails.

    Raises:
        OSError: It cannot be written.
    """
    _PAGE.write(path, _content(comparison, images))


def check_page(path: Path) -> None:
    """Refuse to replace a file that is no page of a comparison.

    Raises:
        ValueError: The file exists and is not such a page.
    """
    _PAGE.check(path)


def _content(comparison: Comparison, images: Path | None) -> Iterator[str]:
    summary = comparison.summary
    yield f'<h1>Comparison of two results of {_text(summary["protocol"])}</h1>'
    for line in folder_lines(comparison):
        yield f'<p>{_text(line)}</p>'
    yield '<h2>Settings that differ</h2>'
    rows = setting_rows(comparison, 500)
    if rows:
        yield from _table(('setting', '1', '2'), rows, numbers=False)
    else:
        yield '<p class="dim">All settings are equal.</p>'
    yield '<h2>Scores</h2>'
    yield from _table(
        ('', '1', '2', '2 minus 1', '95 % interval', 'p'),
        score_rows(comparison),
    )
    if line := good_line(comparison):
        yield f'<p>{_text(line)}</p>'
    yield '<h2>Samples that differ</h2>'
    pairs = comparison.pairs
    shown = pairs[:MOST]
    more = len(pairs) - len(shown)
    yield (
        f'<p>{len(pairs):,} {_text(comparison.protocol.changed)}; those that '
        'differ most first'
        + (f'; {more:,} more are not shown' if more else '')
        + '.</p>'
    )
    files = None if images is None else _image_files(images)
    for pair in shown:
        yield from _section(pair, files)


def _table(
    head: Sequence[str], rows: Sequence[Sequence[str]], numbers: bool = True
) -> Iterator[str]:
    style = ' class="n"' if numbers else ''
    yield '<table><tr>'
    for i, cell in enumerate(head):
        yield f'<th{style if i else ""}>{_text(cell)}</th>'
    yield '</tr>'
    for row in rows:
        yield '<tr>'
        for i, cell in enumerate(row):
            yield f'<td{style if i else ""}>{_text(cell)}</td>'
        yield '</tr>'
    yield '</table>'


def _section(pair: Pair, files: dict[str, str] | None) -> Iterator[str]:
    """A sample: its image, and both results side by side."""
    one, two = pair.first, pair.second
    yield '<section><div class="head">'
    name = '' if one.image in one.key else f', image {one.image}'
    yield f'<h3>{_text(one.key + name)}</h3>'
    if one.prompt and one.prompt == two.prompt:
        yield f'<p>{_text(one.prompt)}</p>'
    if one.truth:
        yield f'<p class="dim">truth: {_text(one.truth)}</p>'
    yield '</div>'
    yield _thumbnail(one, files)
    for sample in pair[:2]:
        yield '<div>'
        if one.prompt != two.prompt:
            yield f'<p class="dim">{_text(sample.prompt)}</p>'
        style = {True: 'good', False: 'bad', None: ''}[sample.good]
        yield f'<p class="{style}">{_text(sample.text or "(empty)")}</p>'
        yield f'<p class="dim">{_text(sample.note)}</p></div>'
    yield '</section>'


def _image_files(folder: Path) -> dict[str, str]:
    """Image files below a folder by path, name, and id of the image."""
    files: dict[str, str] = {}
    for root, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            if os.path.splitext(name)[1].lower() in SUFFIXES:
                path = os.path.join(root, name)
                relative = os.path.relpath(path, folder)
                keys = [os.path.abspath(path), relative, name]
                keys += [os.path.splitext(name)[0], image_id(path, ())]
                for key in keys:
                    files.setdefault(key, path)
    return files


def _thumbnail(sample: Sample, files: dict[str, str] | None) -> str:
    if files is None:
        return '<div class="none"></div>'
    names = (sample.image, sample.file, os.path.basename(sample.image))
    path = next((files[name] for name in names if name in files), None)
    if path is not None:
        try:
            url = data_url(thumbnail_of_file(path, _SIDE, _QUALITY))
        except SampleError:
            path = None
    if path is None:
        return '<div class="none dim">no image</div>'
    return f'<img alt="" src="{url}">'


def _text(value: Any) -> str:
    return html_text(value, _SHOWN)
