# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Display an answer in the terminal while it is generated."""

import re
import time
import unicodedata
from collections.abc import Iterable

from markdown_it import MarkdownIt
from rich.console import (
    Console,
    ConsoleOptions,
    RenderableType,
    RenderResult,
)
from rich.live import Live
from rich.markdown import Markdown
from rich.segment import Segment
from rich.text import Text

from ..utils.errors import printable

# characters that change the direction of the text after them
_DIRECTION = frozenset(
    '\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069'
)
_FENCE = re.compile(r'\s*(```|~~~)')
_REDRAW_SECONDS = 0.06  # between two drawings of the unfinished block


def show_plain(pieces: Iterable[str], console: Console) -> str:
    """Print an answer as plain text while it is generated.

    Args:
        pieces: The answer, in pieces.
        console: Where to print it.

    Returns:
        The answer.
    """
    answer = ''
    for piece in pieces:
        answer += piece
        console.file.write(terminal_text(piece))
        console.file.flush()
    console.file.write('\n')
    console.file.flush()
    return answer


def show_markdown(pieces: Iterable[str], console: Console) -> str:
    """Draw an answer as Markdown, block by block, while it is generated.

    A finished block is printed once. Only the unfinished block is redrawn,
    and only as many of its lines as fit on the screen, so no remains of it
    scroll away.

    Args:
        pieces: The answer, in pieces.
        console: Where to draw it.

    Returns:
        The answer.
    """
    answer, printed, last_draw = '', 0, 0.0
    with Live(console=console, auto_refresh=False, transient=True) as live:
        for piece in pieces:
            answer += piece
            finished = printed + block_end(answer[printed:])
            if finished > printed:
                live.update(Text(), refresh=True)
                console.print(AnswerMarkdown(answer[printed:finished]))
                console.print()
                printed = finished
            now = time.monotonic()
            if now - last_draw > _REDRAW_SECONDS:
                last_draw = now
                live.update(
                    _LastLines(AnswerMarkdown(answer[printed:])), refresh=True
                )
        live.update(Text(), refresh=True)
    if answer[printed:].strip() or not answer:
        console.print(AnswerMarkdown(answer[printed:]))
    return answer


class _LastLines:
    """The last lines of a renderable, as many as fit on the screen."""

    def __init__(self, renderable: RenderableType) -> None:
        self.renderable = renderable

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> RenderResult:
        lines = console.render_lines(self.renderable, options, pad=False)
        for line in lines[-max(1, console.height - 2) :]:
            yield from line
            yield Segment.line()


def block_end(text: str) -> int:
    """The end of the last finished Markdown block; 0 if there is none.

    Args:
        text: The beginning of a Markdown text.
    """
    end = position = 0
    fence = None
    for line in text.splitlines(keepends=True):
        position += len(line)
        mark = _FENCE.match(line)
        if mark and fence in (None, mark[1]):
            fence = None if fence else mark[1]
        is_blank = not line.strip() and line.endswith('\n')
        # a list continues after a blank line, and so does its numbering
        if is_blank and fence is None and not _is_list(text[end:position]):
            end = position
    return end


def _is_list(block: str) -> bool:
    return re.match(r'\s*([-*+]|\d+[.)])\s', block) is not None


class AnswerMarkdown(Markdown):
    """An answer as Markdown that omits none of its text.

    Line ends are preserved, which Markdown would join, as in a poem.
    HTML is shown as text, because Markdown would hide it.

    Args:
        text: The answer.
    """

    def __init__(self, text: str) -> None:
        lines, fence = [], None
        for line in terminal_text(text).splitlines():
            mark = _FENCE.match(line)
            if mark and fence in (None, mark[1]):
                fence = None if fence else mark[1]
            lines.append(line if fence or not line.strip() else line + '  ')
        super().__init__('\n'.join(lines))
        parser = MarkdownIt('commonmark', {'html': False})
        self.parsed = parser.enable(['strikethrough', 'table']).parse(
            self.markup
        )


def terminal_text(text: str) -> str:
    """Remove or escape the characters that a terminal interprets.

    Control characters other than line ends and tabs are removed. Characters
    that change the text direction and lone surrogates are escaped.

    Args:
        text: An answer, a question or a note.
    """
    return ''.join(
        printable(c) if c in _DIRECTION or '\ud800' <= c <= '\udfff' else c
        for c in text
        if c in '\n\t' or unicodedata.category(c) != 'Cc'
    )
