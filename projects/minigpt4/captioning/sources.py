# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Which pictures are meant: folders, files, globs, lists."""

import glob
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from PIL import Image

from ..utils.errors import one_line, printable
from .image_lists import (
    LISTS,
    Question,
    decode_text,
    found_path,
    read_list,
    scheme_of,
    text_questions,
)

# what a folder is searched for; a file that is named is always read
SUFFIXES = frozenset(
    '.avif .bmp .gif .heic .heif .jfif .jp2 .jpe .jpeg .jpg .pgm .png .pnm '
    '.ppm .tga .tif .tiff .webp'.split()
)


def is_image_name(path: 'str | Path') -> bool:
    """Whether a name looks like that of a picture."""
    return os.path.splitext(path)[1].lower() in SUFFIXES


def find_questions(
    sources: Sequence[str], recursive: bool = False
) -> list[Question]:
    """The pictures of several sources, each once, in their order.

    Args:
        sources: Folders (their pictures by name), pictures, globs (``**`` for
            folders below), lists, ``-`` for a list of names on standard
            input. A list is a ``.txt`` of one path per line, or a ``.csv``,
            ``.tsv`` or ``.jsonl`` with ``image`` and, if wished, ``prompt``.
        recursive: Whether to look into the folders of a folder.

    Raises:
        OSError: A source is missing or cannot be read.
        ValueError: A source has no pictures, or a list is written otherwise.
    """
    found: dict[tuple[str, str | None], Question] = {}
    for source in sources:
        empty = True
        for question in _of_source(source, recursive):
            empty = False
            key = os.path.abspath(question.image), question.prompt
            found.setdefault(key, question)
        if empty:
            raise ValueError(_nothing_in(source, recursive))
    return list(found.values())


def _of_source(source: str, recursive: bool) -> Iterable[Question]:
    if source == '-':
        return text_questions(_standard_input())
    if '\0' in source:
        raise ValueError(f'{printable(source)} has a NUL character.')
    path = os.path.expanduser(source)
    if not os.path.lexists(path) and scheme_of(source):
        path = found_path(source)
    if os.path.isdir(path):
        return _of_folder(path, recursive)
    if os.path.exists(path):
        if os.path.splitext(path)[1].lower() in LISTS:
            return read_list(path)
        return [Question(os.path.normpath(path))]
    if glob.has_magic(path):
        names = sorted(glob.glob(path, recursive=True))
        return [Question(n) for n in names if not os.path.isdir(n)]
    raise FileNotFoundError(
        f'{printable(source)} does not exist; give a folder, a picture, a '
        'glob or a list.'
    )


def _of_folder(folder: str, recursive: bool) -> Iterator[Question]:
    """Pictures by name; hidden files and folders are left out.

    Links to folders are followed, to each folder once.
    """
    folder = os.path.normpath(folder)
    seen: set[tuple[int, int]] = set()
    closed: list[OSError] = []

    def note(error: OSError) -> None:
        if error.filename == folder:
            raise error
        closed.append(error)

    for parent, folders, names in os.walk(
        folder, onerror=note, followlinks=True
    ):
        about = os.stat(parent)
        if (about.st_dev, about.st_ino) in seen:
            folders.clear()
            continue
        seen.add((about.st_dev, about.st_ino))
        folders[:] = sorted(f for f in folders if not f.startswith('.'))
        for name in sorted(names):
            if is_image_name(name) and not name.startswith('.'):
                path = os.path.join(parent, name)
                yield Question(path.removeprefix('./'))
        if not recursive:
            return
    for error in closed:
        yield Question(str(error.filename), '', one_line(error))


def _standard_input() -> str:
    stream = sys.stdin
    if stream is None:
        raise ValueError('standard input is closed; give a list as a file.')
    binary = getattr(stream, 'buffer', None)
    return ''.join(stream) if binary is None else decode_text(binary.read())


def _nothing_in(source: str, recursive: bool) -> str:
    path = os.path.expanduser(source)
    if os.path.isdir(path):
        below = '' if recursive else '; --recursive looks into its folders too'
        return f'{printable(source)} has no pictures ({_kinds()}){below}.'
    if glob.has_magic(source):
        return f'no file is called {printable(source)}; give another glob.'
    return (
        f'{printable(source)} names no pictures; expected one path per line.'
    )


def _kinds() -> str:
    Image.init()
    return ' '.join(
        sorted(s.removeprefix('.') for s in SUFFIXES & {*Image.EXTENSION})
    )
