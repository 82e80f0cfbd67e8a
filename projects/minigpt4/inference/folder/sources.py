# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Which pictures are meant: folders, files, globs, lists."""

import csv
import glob
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

# what a folder is searched for; a file that is named is always read
SUFFIXES = frozenset(
    '.avif .bmp .gif .heic .jfif .jp2 .jpe .jpeg .jpg .pgm .png .pnm .ppm '
    '.tga .tif .tiff .webp'.split()
)
LISTS = ('.csv', '.jsonl', '.tsv', '.txt')


class Question(NamedTuple):
    """A question about a picture.

    Attributes:
        image: Path of the picture, as the user wrote it.
        prompt: What to ask; None for what is asked about all pictures.
    """

    image: str
    prompt: str | None = None


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
        return map(Question, _lines(sys.stdin))
    path = os.path.expanduser(source)
    if os.path.isdir(path):
        return map(Question, _of_folder(path, recursive))
    if os.path.exists(path):
        if os.path.splitext(path)[1].lower() in LISTS:
            return _of_list(path)
        return [Question(os.path.normpath(path))]
    if glob.has_magic(path):
        names = sorted(glob.glob(path, recursive=True))
        return [Question(n) for n in names if os.path.isfile(n)]
    raise FileNotFoundError(
        f'{source} does not exist; give a folder, a picture, a glob or a list.'
    )


def _of_folder(folder: str, recursive: bool) -> Iterator[str]:
    """Pictures by name; hidden files and folders are left out."""
    folder = os.path.normpath(folder)

    def refuse(error: OSError) -> None:
        raise error

    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = sorted(f for f in folders if not f.startswith('.'))
        for name in sorted(names):
            if is_image_name(name) and not name.startswith('.'):
                path = os.path.join(parent, name)
                yield path.removeprefix('./')
        if not recursive:
            return


def _of_list(path: str) -> Iterator[Question]:
    suffix = os.path.splitext(path)[1].lower()
    with open(path, encoding='utf-8-sig', newline='') as file:
        try:
            if suffix == '.txt':
                yield from map(Question, _lines(file))
            elif suffix == '.jsonl':
                for number, line in enumerate(file, 1):
                    if line.strip():
                        yield _asked(json.loads(line), path, number)
            else:
                table = csv.DictReader(
                    file, delimiter='\t' if suffix == '.tsv' else ','
                )
                for number, row in enumerate(table, 2):
                    yield _asked(row, path, number)
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(
                f'{path} cannot be read as a list ({error}); expected UTF-8 '
                'text with one picture per line.'
            ) from error


def _lines(file: Iterable[str]) -> Iterator[str]:
    for line in file:
        name = line.rstrip('\r\n')
        if name.strip():
            yield os.path.normpath(os.path.expanduser(name))


def _asked(row: object, path: str, number: int) -> Question:
    image = row.get('image') if isinstance(row, dict) else None
    prompt = row.get('prompt') if isinstance(row, dict) else None
    if not isinstance(image, str) or not image:
        raise ValueError(
            f'{path} names no picture in line {number}; expected the column '
            '"image" and, if wished, "prompt".'
        )
    if prompt is not None and not isinstance(prompt, str):
        raise ValueError(
            f'{path} has the prompt {prompt!r} in line {number}; expected '
            'text.'
        )
    return Question(os.path.normpath(os.path.expanduser(image)), prompt)


def _nothing_in(source: str, recursive: bool) -> str:
    path = os.path.expanduser(source)
    if os.path.isdir(path):
        below = '' if recursive else '; --recursive looks into its folders too'
        return f'{source} holds no pictures ({_kinds()}){below}.'
    if glob.has_magic(source):
        return f'no file is called {source}; give another glob.'
    return f'{source} names no pictures; expected one path per line.'


def _kinds() -> str:
    Image.init()
    return ' '.join(
        sorted(s.removeprefix('.') for s in SUFFIXES & {*Image.EXTENSION})
    )
