# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Find the image files of the records that are imported."""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..datasets.image_folder import ImageFolder

# where data sets keep images next to their annotations
_FOLDERS = (
    *('images', 'image', 'train2017', 'val2017', 'test2017'),
    *('train2014', 'val2014', 'test2015', 'test2014'),
)
_DRIVE = re.compile(r'[A-Za-z]:[\\/]')
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
    :class:`~minigpt4.datasets.image_folder.ImageFolder` finds it, then the
    number of an image of COCO as COCO names its files, then the last part of
    an absolute path of another machine, also of Windows.

    Args:
        source: The file or folder of the records.
        images: The folder of the images; None for the folder of the source
            and the usual folders in it and next to it.
    """

    def __init__(self, source: Path, images: Path | None = None) -> None:
        self._folders = [
            ImageFolder(folder) for folder in _folders(source, images)
        ]
        self._found: dict[str, str | None] = {}

    @property
    def folders(self) -> list[Path]:
        """The folders that are searched, in their order."""
        return [Path(folder.folder) for folder in self._folders]

    def find(self, name: str) -> str | None:
        """The absolute path of an image; None if no file exists."""
        if name not in self._found:
            self._found[name] = self._find(name)
        return self._found[name]

    def _find(self, name: str) -> str | None:
        for candidate in _names(name):
            for folder in self._folders:
                # most files have the name itself
                file = os.path.join(folder.folder, candidate)
                if os.path.isfile(file):
                    return os.path.abspath(file)
            for folder in self._folders:
                file = folder.find(candidate)
                if os.path.isfile(file):
                    return os.path.abspath(file)
        return None


def _folders(source: Path, images: Path | None) -> list[Path]:
    if images is not None:
        roots: Sequence[Path] = [images]
    else:
        root = source if source.is_dir() else source.parent
        # annotations/captions_val2017.json: images are next to annotations
        roots = [root, root.parent] if root.name == 'annotations' else [root]
        if any(root.glob('annotations/*.json')):
            roots = [root]
    found = []
    for root in roots:
        split = source.stem.rpartition('_')[2] if source.is_file() else ''
        for name in dict.fromkeys(('', split, *_FOLDERS)):
            folder = root / name
            if folder.is_dir():
                found.append(folder.absolute())
    return found or [roots[0].absolute()]


def _names(name: str) -> Iterator[str]:
    """The names by which an image may be stored."""
    yield name
    stem, suffix = os.path.splitext(name)
    if stem.isdecimal() and stem.isascii() and len(stem) <= _ZEROS:
        for pattern in _COCO_NAMES:
            yield pattern.format(int(stem)) + (suffix or '.jpg')
    if _DRIVE.match(name) or name.startswith(('/', '\\\\', '~')):
        last = re.split(r'[\\/]', name)[-1]
        if last:
            yield last
