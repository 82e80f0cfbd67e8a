# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Pictures that a user names in the terminal: typed, dragged in, pasted.

A terminal into which a file is dragged types its path: quoted, with escaped
blanks, or as a ``file://`` address, each kind of terminal in its own way.
"""

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ..captioning.image_sources import is_image_name

_WORD = re.compile(
    r"""(?P<single>'[^']*')(?=\s|$)      # 'a b.png', as GNOME and KDE quote
    | (?P<double>"(?:\\.|[^"\\])*")(?=\s|$)
    | (?P<bare>(?:\\.|\S)+)              # a\ b.png, as macOS does""",
    re.VERBOSE,
)


def split_line(line: str) -> tuple[list[str], str]:
    """Take the pictures out of what was typed.

    A word is a picture if it is a ``file://`` address, a web address that
    ends like a picture's name or begins the line, or the path of a file that
    exists and is called like a picture. What is only spoken of ("what is in
    scene.png?") stays in the question, for its name ends otherwise.

    Args:
        line: What was typed.

    Returns:
        Paths and web addresses, and the question that is left.
    """
    images, pieces, end = [], [], 0
    for match in _WORD.finditer(line):
        source = source_of(match[0])
        first = not line[: match.start()].strip()
        if _is_picture(source, quoted=match.lastgroup != 'bare', first=first):
            images.append(source)
            pieces.append(line[end : match.start()])
            end = match.end()
    question = ''.join([*pieces, line[end:]])
    # blanks where a picture stood; those of the question itself stay
    return images, question.strip() if images else line.strip()


def words_of(line: str) -> list[str]:
    """All words of a line as paths or web addresses."""
    return [source_of(match[0]) for match in _WORD.finditer(line)]


def source_of(word: str) -> str:
    """A word without quotes and escapes; ``file://`` and ``~`` as paths."""
    if is_web_address(word):
        return word
    if len(word) > 1 and word[0] == word[-1] == "'":
        word = word[1:-1]
    elif len(word) > 1 and word[0] == word[-1] == '"':
        word = re.sub(r'\\(["\\$`])', r'\1', word[1:-1])
    elif not Path(word).exists():
        word = re.sub(r'\\(.)', r'\1', word)
    if word.startswith('file:'):
        return unquote(urlsplit(word).path)
    if word.startswith('~'):
        return str(Path(word).expanduser())
    return word


def is_web_address(word: str) -> bool:
    """Whether a picture is to be fetched."""
    return word.lower().startswith(('http://', 'https://'))


def _is_picture(source: str, quoted: bool, first: bool) -> bool:
    if is_web_address(source):
        return first or is_image_name(urlsplit(source).path)
    return is_image_name(source) and (
        Path(source).is_file() or ((quoted or first) and '/' in source)
    )
