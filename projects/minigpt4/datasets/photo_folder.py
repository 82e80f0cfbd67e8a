# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Read a folder of photographs with captions."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from ..images.formats import SUFFIXES
from ..utils.errors import printable
from ..utils.regular_files import read_regular
from ..utils.sample_errors import SampleError
from .captions import check_caption, decode_text
from .image_folder import ImageFolder
from .record_files import read_record_file

COCO_URLS = (
    'http://images.cocodataset.org/zips/val2017.zip',
    'http://images.cocodataset.org/annotations/annotations_trainval2017.zip',
)
_CAPTION_FILE = re.compile(r'captions(?:_(?P<name>\w+))?\.json')
_TEST_NAME = re.compile(r'(test|val)\d*')


class Photo(NamedTuple):
    """A photograph with its captions.

    Attributes:
        name: Its image id, or its file name without suffix.
        file: Absolute path of the image.
        captions: Its captions, at least one, each one line.
    """

    name: str
    file: Path
    captions: tuple[str, ...]


class PhotoFolder(NamedTuple):
    """The photographs of a folder.

    Attributes:
        train: Photographs to train with, in the order of their names.
        test: Held-out photographs; empty where the folder names none.
        skipped: How many captions were skipped, by reason.
    """

    train: list[Photo]
    test: list[Photo]
    skipped: Counter[str]


def read_photos(folder: 'str | Path') -> PhotoFolder:
    """Read the photographs of a folder, in one of two layouts.

    - COCO: ``captions*.json`` in the folder or in its ``annotations``. The
      images of ``captions_NAME.json`` are in ``NAME``, ``images``, ``image``
      or the folder itself. With two files, those of ``test`` or ``val`` are
      held out.
    - Text files: ``dog.txt`` next to ``dog.jpg``, also in subfolders, with
      one caption per line.

    Args:
        folder: The folder.

    Raises:
        FileNotFoundError: The folder does not exist or has no captions.
        ValueError: A caption file is damaged, or no caption can be used.
    """
    root = Path(folder).expanduser().resolve()
    if not root.is_dir():
        raise FileNotFoundError(
            f'{folder} is not a folder; expected a folder of photographs '
            'with captions.'
        )
    skipped: Counter[str] = Counter()
    files = _caption_files(root)
    splits: dict[bool, dict[str, Photo]] = {False: {}, True: {}}
    for path, name in files:
        photos = _read_coco(path, root, name, skipped)
        splits[bool(_TEST_NAME.fullmatch(name))] |= photos
    if not files:
        splits[False] = _read_text_files(root, skipped)
    train, test = splits[False], splits[True]
    if not train:
        train, test = test, {}
    if not train:
        raise FileNotFoundError(_nothing_found(folder, skipped))
    for name in train.keys() & test.keys():
        skipped['photograph is in the training and the test file'] += len(
            train.pop(name).captions
        )
    return PhotoFolder(_sorted(train), _sorted(test), skipped)


def _nothing_found(folder: 'str | Path', skipped: Counter[str]) -> str:
    found = ', '.join(f'{n} skipped: {r}' for r, n in skipped.items())
    return (
        f'{folder} has no photograph with a usable caption'
        f'{f" ({found})" if found else ""}; expected captions.json of COCO, '
        'or a text file dog.txt next to dog.jpg with one caption per line. '
        f'For COCO val2017 unpack {" and ".join(COCO_URLS)} in one folder.'
    )


def _sorted(photos: dict[str, Photo]) -> list[Photo]:
    return [photos[name] for name in sorted(photos)]


def _caption_files(root: Path) -> list[tuple[Path, str]]:
    """Return the COCO caption files of a folder, and the names in them."""
    found = []
    for folder in (root, root / 'annotations'):
        for path in sorted(folder.glob('captions*.json')):
            match = _CAPTION_FILE.fullmatch(path.name)
            if match:
                found.append((path, match['name'] or ''))
    return found


def _read_coco(
    path: Path, root: Path, name: str, skipped: Counter[str]
) -> dict[str, Photo]:
    """Read a COCO caption file whose images are below ``root``."""
    records, file_names = read_record_file(path)
    folders = [
        ImageFolder(root / part)
        for part in (name, 'images', 'image', '')
        if (root / part).is_dir()
    ]
    captions: dict[str, list[str]] = {}
    for record in records:
        image_id = record.get('image_id') if isinstance(record, dict) else None
        if isinstance(image_id, bool) or not isinstance(image_id, (int, str)):
            skipped['record has no image_id'] += 1
            continue
        captions.setdefault(str(image_id), []).extend(
            _usable([record.get('caption')], skipped)
        )
    photos = {}
    for image_id, texts in captions.items():
        image_name = (file_names or {}).get(image_id) or image_id
        file = _find(folders, str(image_name))
        if file is None:
            skipped['image does not exist'] += len(texts)
        elif texts:
            photos[image_id] = Photo(image_id, file, tuple(texts))
    return photos


def _find(folders: Iterable[ImageFolder], name: str) -> Path | None:
    for folder in folders:
        file = Path(folder.find(name))
        if file.is_file():
            return file.resolve()
    return None


def _read_text_files(root: Path, skipped: Counter[str]) -> dict[str, Photo]:
    """Read images with a text file of the same name."""
    photos = {}
    for file in sorted(root.rglob('*')):
        if file.suffix.lower() not in SUFFIXES or not file.is_file():
            continue
        text_file = file.with_suffix('.txt')
        if not text_file.is_file():
            skipped['image has no text file'] += 1
            continue
        try:
            text = decode_text(read_regular(text_file), str(text_file))
        except SampleError:
            skipped['text file is not UTF-8'] += 1
            continue
        name = file.relative_to(root).with_suffix('').as_posix()
        captions = tuple(_usable(text.splitlines(), skipped))
        if captions:
            photos[name] = Photo(name, file, captions)
        elif not text.strip():
            skipped['text file is empty'] += 1
    return photos


def _usable(texts: Iterable[object], skipped: Counter[str]) -> Iterator[str]:
    """Yield the valid captions as one line each; empty lines are ignored."""
    for text in texts:
        if isinstance(text, str) and not text.strip():
            continue
        try:
            caption = check_caption(text, '')
        except SampleError:
            skipped['caption is not valid text'] += 1
        else:
            yield caption


def describe_skipped(skipped: Counter[str]) -> str:
    """Describe what was skipped, e.g. ``3 captions: image does not exist``."""
    return '; '.join(
        f'{count} captions: {printable(reason)}'
        for reason, count in skipped.items()
    )
