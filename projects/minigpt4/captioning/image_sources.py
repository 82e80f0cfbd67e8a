# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Find the images of a command line: folders, files, globs and lists."""

import glob
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from PIL import Image

from ..images.formats import SUFFIXES
from ..utils.errors import one_line, printable
from .image_lists import (
    LIST_SUFFIXES,
    ImageEntry,
    decode_text,
    find_path,
    read_list,
    text_entries,
    url_scheme,
)


def is_image_name(path: 'str | Path') -> bool:
    """Whether a file name has the suffix of an image format."""
    return os.path.splitext(path)[1].lower() in SUFFIXES


def find_images(
    sources: Sequence[str], recursive: bool = False
) -> list[ImageEntry]:
    """Find the images of several sources, each once, in their order.

    Args:
        sources: Folders (their images are sorted by name), images, globs
            (``**`` for subfolders), lists, ``-`` for a list of names on
            standard input. See :func:`~.image_lists.read_list`.
        recursive: Whether to search subfolders too.

    Raises:
        OSError: A source does not exist or cannot be read.
        ValueError: A source has no images, or a list has no valid row.
    """
    found: dict[tuple[str, str | None], ImageEntry] = {}
    for source in sources:
        empty = True
        for entry in _read_source(source, recursive):
            empty = False
            key = os.path.abspath(entry.image), entry.prompt
            found.setdefault(key, entry)
        if empty:
            raise ValueError(_empty_message(source, recursive))
    return list(found.values())


def _read_source(source: str, recursive: bool) -> Iterable[ImageEntry]:
    if source == '-':
        return text_entries(_read_standard_input())
    if '\0' in source:
        raise ValueError(f'{printable(source)} has a NUL character.')
    path = os.path.expanduser(source)
    if not os.path.lexists(path) and url_scheme(source):
        path = find_path(source)
    if os.path.isdir(path):
        return _read_folder(path, recursive)
    if os.path.exists(path):
        if os.path.splitext(path)[1].lower() in LIST_SUFFIXES:
            return read_list(path)
        return [ImageEntry(os.path.normpath(path))]
    if glob.has_magic(path):
        names = sorted(glob.glob(path, recursive=True))
        return [ImageEntry(n) for n in names if not os.path.isdir(n)]
    raise FileNotFoundError(
        f'{printable(source)} does not exist; give a folder, an image, '
        'a glob or a list.'
    )


def _read_folder(folder: str, recursive: bool) -> Iterator[ImageEntry]:
    """List images by name, without hidden files and folders.

    Links to folders are followed; each folder is searched once.
    """
    folder = os.path.normpath(folder)
    visited: set[tuple[int, int]] = set()
    unreadable: list[OSError] = []

    def note(error: OSError) -> None:
        if error.filename == folder:
            raise error
        unreadable.append(error)

    for parent, folders, names in os.walk(
        folder, onerror=note, followlinks=True
    ):
        status = os.stat(parent)
        if (status.st_dev, status.st_ino) in visited:
            folders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        folders[:] = sorted(f for f in folders if not f.startswith('.'))
        for name in sorted(names):
            if is_image_name(name) and not name.startswith('.'):
                path = os.path.join(parent, name)
                yield ImageEntry(path.removeprefix('./'))
        if not recursive:
            return
    for error in unreadable:
        yield ImageEntry(str(error.filename), '', one_line(error))


def _read_standard_input() -> str:
    stream = sys.stdin
    if stream is None:
        raise ValueError('standard input is closed; give a list as a file.')
    binary = getattr(stream, 'buffer', None)
    return ''.join(stream) if binary is None else decode_text(binary.read())


def _empty_message(source: str, recursive: bool) -> str:
    path = os.path.expanduser(source)
    if os.path.isdir(path):
        hint = '' if recursive else '; --recursive searches subfolders too'
        return f'{printable(source)} has no images ({_suffixes()}){hint}.'
    if glob.has_magic(source):
        return f'no file matches {printable(source)}; give another glob.'
    return f'{printable(source)} names no images; expected one path per line.'


def _suffixes() -> str:
    Image.init()
    return ' '.join(
        sorted(s.removeprefix('.') for s in {*SUFFIXES} & {*Image.EXTENSION})
    )
