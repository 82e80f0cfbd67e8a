# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Display answers and notes: for scripts, and for a user at a terminal."""

import json
import sys
from collections.abc import Iterable
from typing import TextIO

from rich.console import Console
from rich.text import Text

from ..chat.session import ChatSession
from .answer_view import show_markdown, show_plain, terminal_text


class ScriptView:
    """Prints answers on standard output and notes on standard error.

    Args:
        as_json: Whether each answer is printed as a line of JSON, without
            notes.
    """

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json

    def show_answer(self, pieces: Iterable[str]) -> None:
        """Print an answer while it is generated."""
        clean = terminal_text if is_terminal(sys.stdout) else str
        for piece in pieces:
            if not self.as_json:
                print(clean(piece), end='', flush=True)
        if not self.as_json:
            print(flush=True)

    def show_note(self, text: str) -> None:
        """Print a note."""
        if not self.as_json:
            print(terminal_text(text), file=sys.stderr)

    def end_turn(self, question: str, session: ChatSession) -> None:
        """Print the line of JSON."""
        last = session.last
        if self.as_json and last is not None:
            fields = dict(
                question=question,
                answer=last.text,
                finish_reason=last.finish_reason,
                tokens=len(last.token_ids),
                prompt_tokens=last.prompt_tokens,
                reused_tokens=last.reused_tokens,
                notice=session.notice,
            )
            print(json.dumps(fields, ensure_ascii=False), flush=True)


class TerminalView:
    """Displays answers and notes to a user at a terminal.

    Args:
        console: The terminal.
        plain: Whether answers are shown as plain text, not as Markdown.
    """

    def __init__(self, console: Console, plain: bool) -> None:
        self.console = console
        self.plain = plain or console.is_dumb_terminal

    def show_answer(self, pieces: Iterable[str]) -> None:
        """Display an answer while it is generated."""
        show = show_plain if self.plain else show_markdown
        show(pieces, self.console)

    def show_note(self, text: str) -> None:
        """Display a note, dimmed."""
        self.console.print(Text(terminal_text(text), 'dim'))

    def end_turn(self, question: str, session: ChatSession) -> None:
        """Print an empty line between two turns."""
        self.console.print()


def is_terminal(stream: 'TextIO | None') -> bool:
    """Whether a stream exists and is a terminal."""
    return stream is not None and stream.isatty()
