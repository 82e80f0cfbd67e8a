# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Find the image files of the records that are imported."""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..datasets.image_folder import ImageFolder
from ..utils.errors import printable

# where data sets keep images next to their annotations
_FOLDERS = (
    *('images', 'image', 'train2017', 'val2017', 'test2017'),
    *('train2014', 'val2014', 'test2015', 'test2014'),
)
# COCO's names of an image with a number; each name is unique
_COCO_NAMES = (
    '{:012d}',
    'COCO_train2014_{:012d}',
    'COCO_val2014_{:012d}',
    'COCO_test2015_{:012d}',
    'COCO_test2014_{:012d}',
)
_ZEROS = 12


class ImagePlaces:
    """Finds image files by the names in records.

    The first existing file is used: in each folder the name as
    :class:`~minigpt4.datasets.image_folder.ImageFolder` finds it, also below
    the home folder for ``~``; then the number of an image of COCO as COCO
    names its files; then the last part of a path of another machine or
    folder, also of Windows.

    Args:
        source: The file or folder of the records.
        images: The folder of the images, before that of the source; None for
            the folder of the source and the usual folders in it and next to
            it.
    """

    def __init__(self, source: Path, images: Path | None = None) -> None:
        self._folders = [
            ImageFolder(folder)
            for folder in _folders(absolute_path(source), images)
        ]
        self._found: dict[str, str | None] = {}
        self._by_last_part: dict[str, str] = {}

    @property
    def folders(self) -> list[Path]:
        """The folders that are searched, in their order."""
        return [Path(folder.folder) for folder in self._folders]

    def find(self, name: str) -> str | None:
        """The absolute path of an image; None if no file exists.

        Raises:
            ValueError: Several folders have a file with the last part of the
                name. The message follows the place of the record.
        """
        if name not in self._found:
            self._found[name] = self._find(name)
        return self._found[name]

    def conflicts(self) -> dict[str, str]:
        """Why files are ambiguous that were found by the last part of a name.

        Another name has the same last part, as ``a/1.jpg`` and ``b/1.jpg``
        have, so that the file can be the image of one of them at most.
        """
        found = {}
        for name, file in self._found.items():
            other = self._by_last_part.get(file or '')
            if file and other and _parts(other) != _parts(name):
                found[file] = (
                    f'has an image that is ambiguous: {printable(other)!r} '
                    f'and {printable(name)!r} both give {printable(file)}; '
                    'name the folder that contains these paths with --images'
                )
        return found

    def _find(self, name: str) -> str | None:
        for candidate in _names(name):
            for folder in self._folders:
                # most files have the name itself
                file = os.path.join(folder.folder, candidate)
                if os.path.isfile(file):
                    return absolute(file)
            for folder in self._folders:
                file = folder.find(candidate)
                if os.path.isfile(file):
                    return absolute(file)
        last = _parts(name)[-1]
        if last in ('', name):
            return None
        files = [folder.find(last) for folder in self._folders]
        found = {
            os.path.realpath(file): absolute(file)
            for file in files
            if os.path.isfile(file)
        }
        if len(found) > 1:
            raise ValueError(
                f'has the image {printable(name)!r}, and several files have '
                f'its last part: {printable(", ".join(found.values()))}; '
                'name the folder of the images with --images'
            )
        for file in found.values():
            self._by_last_part.setdefault(file, name)
            return file
        return None


def absolute(path: str) -> str:
    """The absolute path; ``..`` after a symbolic link is its parent."""
    return os.path.realpath(path) if '..' in path else os.path.abspath(path)


def absolute_path(path: Path) -> Path:
    """The absolute path; ``..`` after a symbolic link is its parent."""
    return Path(absolute(str(path)))


def _parts(name: str) -> list[str]:
    """The parts of a path of any system."""
    return [part for part in re.split(r'[\\/]', name) if part != '.'] or ['']


def _folders(source: Path, images: Path | None) -> list[Path]:
    """The folders to search, from an absolute source."""
    folder = source if source.is_dir() else source.parent
    if images is not None:
        roots: Sequence[Path] = [absolute_path(images)]
    else:
        root = folder
        # annotations/captions_val2017.json: images are next to annotations
        roots = [root, root.parent] if root.name == 'annotations' else [root]
        if any(root.glob('annotations/*.json')):
            roots = [root]
    found = []
    for root in roots:
        split = source.stem.rpartition('_')[2] if source.is_file() else ''
        for name in dict.fromkeys(('', split, *_FOLDERS)):
            if (root / name).is_dir():
                found.append(root / name)
    # names relative to the file, also with --images
    return list(dict.fromkeys([*(found or roots), folder]))


def _names(name: str) -> Iterator[str]:
    """The names by which an image may be stored."""
    yield name
    if name.startswith('~'):
        yield os.path.expanduser(name)
    stem, suffix = os.path.splitext(name)
    if stem.isdecimal() and stem.isascii() and len(stem) <= _ZEROS:
        for pattern in _COCO_NAMES:
            yield pattern.format(int(stem)) + (suffix or '.jpg')
