# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""An answer in the terminal while it is being written."""

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

# they reorder the text after them, also that of another line
_DIRECTION = frozenset(
    '\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069'
)
_FENCE = re.compile(r'\s*(```|~~~)')
_REDRAW = 0.06  # seconds between two drawings of the block that grows


def show_plain(pieces: Iterable[str], console: Console) -> str:
    """Write an answer letter by letter as the model writes it.

    Args:
        pieces: The answer, in pieces.
        console: Where to.

    Returns:
        The answer.
    """
    said = ''
    for piece in pieces:
        said += piece
        console.file.write(terminal_text(piece))
        console.file.flush()
    console.file.write('\n')
    console.file.flush()
    return said


def show_markdown(pieces: Iterable[str], console: Console) -> str:
    """Draw an answer as Markdown, block by block.

    A block that is done is printed once and for all; only the one that grows
    is drawn anew, and of that what the screen has room for. So nothing is
    left behind by an answer that is longer than the screen.

    Args:
        pieces: The answer, in pieces.
        console: Where to.

    Returns:
        The answer.
    """
    said, printed, drawn = '', 0, 0.0
    with Live(console=console, auto_refresh=False, transient=True) as live:
        for piece in pieces:
            said += piece
            done = printed + block_end(said[printed:])
            if done > printed:
                live.update(Text(), refresh=True)
                console.print(AnswerMarkdown(said[printed:done]))
                console.print()
                printed = done
            now = time.monotonic()
            if now - drawn > _REDRAW:
                drawn = now
                live.update(_End(AnswerMarkdown(said[printed:])), refresh=True)
        live.update(Text(), refresh=True)
    if said[printed:].strip() or not said:
        console.print(AnswerMarkdown(said[printed:]))
    return said


class _End:
    """The last lines of something, as many as there is room for."""

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
    """Where the last block of Markdown that is done ends; 0 if none is."""
    end = place = 0
    fence = None
    for line in text.splitlines(keepends=True):
        place += len(line)
        mark = _FENCE.match(line)
        if mark and fence in (None, mark[1]):
            fence = None if fence else mark[1]
        blank = not line.strip() and line.endswith('\n')
        # a list goes on behind a blank line, and its numbers with it
        if blank and fence is None and not _in_list(text[end:place]):
            end = place
    return end


def _in_list(block: str) -> bool:
    return re.match(r'\s*([-*+]|\d+[.)])\s', block) is not None


class AnswerMarkdown(Markdown):
    """What the model said as Markdown that loses nothing of it.

    Its line ends are kept, which Markdown would join, as those of a poem; and
    its ``<`` are letters, or a web page that it writes would vanish.

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
    """Text without the characters that a terminal interprets.

    Control characters are left out, but for line ends and tabs; characters
    that change the direction of what follows, and lone surrogates, are
    escaped.

    Args:
        text: An answer, a question or a remark.
    """
    return ''.join(
        printable(c) if c in _DIRECTION or '\ud800' <= c <= '\udfff' else c
        for c in text
        if c in '\n\t' or unicodedata.category(c) != 'Cc'
    )
