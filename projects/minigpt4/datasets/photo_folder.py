# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Read a folder of photographs with captions."""

import re
from pathlib import Path
from typing import NamedTuple

from ..utils.errors import printable
from .photo_captions import (
    Photo,
    Photos,
    join_photos,
    path_below,
    read_coco_captions,
    read_text_captions,
)
from .skip_summary import SkipSummary

COCO_URLS = (
    'http://images.cocodataset.org/zips/val2017.zip',
    'http://images.cocodataset.org/annotations/annotations_trainval2017.zip',
)
_CAPTION_FILE = re.compile(r'captions[-_. ]?(?P<name>.*)\.json', re.IGNORECASE)
# files of captions that "minigpt4 data import" reads
_IMPORTED_FILE = re.compile(
    r'captions.*\.(csv|tsv|jsonl|ndjson|parquet)(\.gz)?', re.IGNORECASE
)
_TEST_NAME = re.compile(r'(test|val)\d*', re.IGNORECASE)


class PhotoFolder(NamedTuple):
    """The photographs of a folder.

    Attributes:
        train: Photographs to train with, in the order of their names.
        test: Held-out photographs; empty where the folder names none.
        skipped: What was skipped.
    """

    train: list[Photo]
    test: list[Photo]
    skipped: SkipSummary


def read_photos(folder: 'str | Path') -> PhotoFolder:
    """Read the photographs of a folder, in one of two layouts or both.

    - COCO: ``captions*.json`` in the folder or in its ``annotations``. The
      images of ``captions_NAME.json`` are in ``NAME``, ``images``, ``image``
      or the folder itself. Those of ``test`` or ``val`` are held out, unless
      there are no others.
    - Text files: ``dog.txt`` next to ``dog.jpg``, also in subfolders, with
      one caption per line. Not used for images that a caption file has.

    Args:
        folder: The folder.

    Raises:
        FileNotFoundError: The folder does not exist or has no captions.
        ValueError: A caption file is damaged.
    """
    root = Path(folder).expanduser().resolve()
    if not root.is_dir():
        raise FileNotFoundError(
            f'{folder} is not a folder; expected a folder of photographs '
            'with captions.'
        )
    skipped = SkipSummary()
    train: Photos = {}
    test: Photos = {}
    files = caption_files(root)
    for path, name in files:
        split = test if _TEST_NAME.fullmatch(name) else train
        join_photos(
            split, read_coco_captions(path, root, name, skipped), skipped
        )
    known = train.keys() | test.keys()
    unnamed = 'without a caption' if files else 'without a text file'
    train |= read_text_captions(root, known, unnamed, skipped)
    imported = _find_files(root, _IMPORTED_FILE)
    if not train:
        train, test = test, {}
    if not train:
        raise FileNotFoundError(_nothing_found(folder, imported, skipped))
    for path in imported:
        skipped.add(
            'file',
            'not read here, but by "minigpt4 data import" (docs/data.md)',
            path.name,
        )
    for file in sorted(train.keys() & test.keys()):
        del train[file]
        skipped.add(
            'image',
            'not used to train, being held out too',
            path_below(root, file),
        )
    return PhotoFolder(_sorted(train), _sorted(test), skipped)


def _nothing_found(
    folder: 'str | Path', imported: list[Path], skipped: SkipSummary
) -> str:
    found = '; '.join(f'skipped {line}' for line in skipped.lines())
    message = (
        f'{folder} has no photograph with a usable caption'
        f'{f" ({found})" if found else ""}; '
    )
    if imported:
        return message + (
            f'{printable(imported[0].name)} is read by "minigpt4 data import '
            f'{printable(str(imported[0]))} -o DIR" (docs/data.md).'
        )
    return message + (
        'expected captions.json of COCO, or a text file dog.txt next to '
        'dog.jpg with one caption per line. For COCO val2017 unpack '
        f'{" and ".join(COCO_URLS)} in one folder.'
    )


def _sorted(photos: Photos) -> list[Photo]:
    return sorted(photos.values(), key=lambda p: (p.name, p.file))


def caption_files(root: Path) -> list[tuple[Path, str]]:
    """Return the COCO caption files of a folder, and the names in them.

    ``captions_val2017.json`` has the name ``val2017``, and so has
    ``captions-val2017.json``.
    """
    return [
        (path, _CAPTION_FILE.sub(r'\g<name>', path.name))
        for path in _find_files(root, _CAPTION_FILE)
    ]


def _find_files(root: Path, pattern: re.Pattern[str]) -> list[Path]:
    """Return the files of such a name in a folder and its annotations."""
    return [
        path
        for folder in (root, root / 'annotations')
        if folder.is_dir()
        for path in sorted(folder.iterdir())
        if pattern.fullmatch(path.name) and path.is_file()
    ]
