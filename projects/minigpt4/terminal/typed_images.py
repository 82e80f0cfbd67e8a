# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Images in a line that a user types, drags or pastes into a terminal.

A terminal into which a file is dragged inserts its path: quoted, with
escaped blanks, or as a ``file://`` address, depending on the terminal.
"""

import asyncio
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ..captioning.image_sources import is_image_name

MAX_BYTES = 50 * 2**20  # of an image that is downloaded
MAX_SECONDS = 30.0  # to download it
_WORD = re.compile(
    r"""(?P<single>'[^']*')(?=\s|$)      # 'a b.png', as GNOME and KDE quote
    | (?P<double>"(?:\\.|[^"\\])*")(?=\s|$)
    | (?P<bare>(?:\\.|\S)+)              # a\ b.png, as macOS does""",
    re.VERBOSE,
)


def split_line(line: str) -> tuple[list[str], str]:
    """Split a line into images and a question.

    A word is an image if it is a ``file://`` address, a web address that
    has the suffix of an image or starts the line, or the path of an existing
    file with the suffix of an image. Other words remain in the question: in
    "what is in scene.png?" the word ends with a question mark.

    Args:
        line: The line.

    Returns:
        Paths and web addresses, and the remaining question.
    """
    images, pieces, end = [], [], 0
    for match in _WORD.finditer(line):
        source = parse_word(match[0])
        is_first = not line[: match.start()].strip()
        is_quoted = match.lastgroup != 'bare'
        if _is_image(source, is_quoted, is_first):
            images.append(source)
            pieces.append(line[end : match.start()])
            end = match.end()
    question = ''.join([*pieces, line[end:]])
    # blanks inside the question are preserved
    return images, question.strip() if images else line.strip()


def parse_words(line: str) -> list[str]:
    """All words of a line as paths or web addresses.

    Args:
        line: The line, such as the arguments of a command.
    """
    return [parse_word(match[0]) for match in _WORD.finditer(line)]


def parse_word(word: str) -> str:
    """Remove quotes and escapes; resolve ``file://`` and ``~`` to paths.

    Args:
        word: A word as typed.
    """
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


def is_web_address(source: str) -> bool:
    """Whether an image is to be downloaded.

    Args:
        source: A path or a web address.
    """
    return source.lower().startswith(('http://', 'https://'))


def download_image(url: str) -> bytes:
    """Download an image file for the user who typed its address.

    Unlike the clients of a server, this user may name any host, also one
    with a private address.

    Args:
        url: The web address.

    Raises:
        ValueError: httpcore is not installed, or the download failed.
    """
    try:
        from ..images.fetch import ImageFetcher
    except ImportError as error:
        raise ValueError(
            'httpcore is not installed, which downloads images; install it '
            "with pip install 'minigpt4[serve]', or save the image and give "
            'its path.'
        ) from error
    fetcher = ImageFetcher(
        MAX_BYTES,
        MAX_SECONDS,
        any_host=True,
        fallback='save the image and give its path',
    )
    return asyncio.run(fetcher.fetch(url))


def _is_image(source: str, is_quoted: bool, is_first: bool) -> bool:
    if is_web_address(source):
        return is_first or is_image_name(urlsplit(source).path)
    return is_image_name(source) and (
        Path(source).is_file() or ((is_quoted or is_first) and '/' in source)
    )
