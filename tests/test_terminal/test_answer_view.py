# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Answers in the terminal: plain text and Markdown."""

import io
import re

from rich.console import Console

from minigpt4.terminal.answer_view import block_end, show_markdown, show_plain


def render(pieces, show=show_markdown):
    """The answer, and the lines on the screen after it."""
    out = io.StringIO()
    console = Console(
        file=out,
        force_terminal=True,
        color_system=None,
        width=60,
        height=10,
        _environ={'TERM': 'xterm'},
    )
    answer = show(pieces, console)
    # an erased line is what follows its last erasure
    text = re.sub(r'\x1b\[\??\d*[hlABm]', '', out.getvalue())
    return answer, [line.rpartition('\x1b[2K')[2] for line in text.split('\n')]


def split(text):
    return [text[i : i + 3] for i in range(0, len(text), 3)]


def test_markdown_keeps_line_ends_and_html():
    poem = 'O star, so <b>bright</b>,\nO cross with **light**.\n\nThe end.'
    answer, lines = render(split(poem))
    assert answer == poem
    visible = [line.strip() for line in lines if line.strip()]
    assert visible[-3:] == [
        'O star, so <b>bright</b>,',
        'O cross with light.',
        'The end.',
    ]


def test_code_blocks_are_unchanged():
    code = '```html\n<html>\n\n<p>\n```\n\nDone.'
    assert block_end(code[:20]) == 0
    assert block_end(code) == len(code) - len('Done.')
    _, lines = render(split(code))
    assert {'<html>', '<p>', 'Done.'} <= {line.strip() for line in lines}


def test_tables_are_drawn():
    _, lines = render(split('| a | b |\n|---|---|\n| one | two |'))
    assert any(line.split() == ['one', 'two'] for line in lines)


def test_control_characters_are_removed():
    answer, lines = render(['a\x1b[2Jb\x07', '\tc\n'], show_plain)
    assert answer == 'a\x1b[2Jb\x07\tc\n'
    assert lines[0] == 'a[2Jb\tc'
    _, lines = render(['a\x1b]0;title\x07b'])
    assert any(line.startswith('a]0;titleb') for line in lines)
