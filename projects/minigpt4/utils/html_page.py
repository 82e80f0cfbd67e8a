# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Self-contained HTML pages: reports that run no script."""

from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from .atomic import replacing
from .errors import printable
from .output_paths import check_output_file
from .regular_files import read_regular

_TITLE, _STYLE, _BODY = '<title>', '</style>', '<body>\n'


class HtmlPage(NamedTuple):
    """A kind of page.

    Args:
        title: Its title, by which an older page is recognised.
        kind: What it is, such as ``'a report of an evaluation'``.
        style: CSS of this kind, after that of all (``html_page.html``).
    """

    title: str
    kind: str
    style: str = ''

    def write(self, path: Path, parts: Iterable[str]) -> None:
        """Write a page; a failure leaves the old file.

        Args:
            path: The HTML file.
            parts: Its content, as HTML.

        Raises:
            OSError: The page cannot be written.
        """
        text = Path(__file__).with_suffix('.html').read_text('utf-8')
        text = text.replace(_TITLE, _TITLE + html_text(self.title))
        text = text.replace(_STYLE, self.style + _STYLE)
        head, body, tail = text.partition(_BODY)
        with (
            replacing(path) as temporary,
            open(
                temporary, 'w', encoding='utf-8', errors='backslashreplace'
            ) as file,
        ):
            file.write(head + body)
            for part in parts:
                file.write(part + '\n')
            file.write(tail)

    def check(self, path: Path) -> None:
        """Check that a page can be written, before the work for it.

        Args:
            path: The HTML file.

        Raises:
            ValueError: The file exists and is no such page, or is a symbolic
                link to nothing.
            OSError: Its folder takes no new files.
        """
        check_output_file(path)
        title = f'{_TITLE}{html_text(self.title)}</title>'.encode()
        if path.exists() and title not in read_regular(path):
            raise ValueError(
                f'{printable(str(path))} exists and is not {self.kind}; give '
                'another name.'
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
