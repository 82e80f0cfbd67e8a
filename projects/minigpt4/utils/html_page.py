# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Self-contained HTML pages that are written from a template.

A template is an HTML file with the line ``<!-- content -->`` and its own
title, by which an older page of the same kind is recognised.
"""

import re
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any

from .atomic import replacing
from .errors import printable
from .output_paths import check_output_file
from .regular_files import read_regular

_MARK = '<!-- content -->'
_TITLE = re.compile('<title>.*?</title>')


def write_html_page(path: Path, template: Path, parts: Iterable[str]) -> None:
    """Write a page; a failure leaves the old file.

    Args:
        path: The HTML file.
        template: The template.
        parts: Its content, as HTML.

    Raises:
        OSError: The page cannot be written.
    """
    head, _, tail = template.read_text('utf-8').partition(_MARK)
    with (
        replacing(path) as temporary,
        open(
            temporary, 'w', encoding='utf-8', errors='backslashreplace'
        ) as file,
    ):
        file.write(head)
        for part in parts:
            file.write(part + '\n')
        file.write(tail)


def check_html_page(path: Path, template: Path, kind: str) -> None:
    """Check that a page can be written, before the work for it.

    Args:
        path: The HTML file.
        template: The template.
        kind: What its pages are, such as ``'a report of an evaluation'``.

    Raises:
        ValueError: The file exists and is no such page, or is a symbolic
            link to nothing.
        OSError: Its folder takes no new files.
    """
    check_output_file(path)
    title = _TITLE.search(template.read_text('utf-8'))
    if title is None:
        raise ValueError(f'{template} has no title.')
    if path.exists() and title[0].encode() not in read_regular(path):
        raise ValueError(
            f'{printable(str(path))} exists and is not {kind}; give another '
            'name.'
        )


def html_text(value: Any, longest: int | None = None) -> str:
    """Escape a text; its lines remain lines.

    Args:
        value: The text, or a value that becomes one.
        longest: Characters that are shown; None for all.
    """
    text = str(value)
    if longest is not None and len(text) > longest:
        text = text[:longest] + '…'
    return escape('\n'.join(map(printable, text.split('\n'))))
