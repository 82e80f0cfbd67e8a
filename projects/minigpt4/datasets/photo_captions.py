# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Read the captions of photographs from COCO files and from text files.

A photograph is identified by its file: image ids and names without suffix
repeat in other files and folders.
"""

import os
import unicodedata
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from ..utils.errors import one_line
from ..utils.ids import id_key_or_none
from ..utils.regular_files import read_regular
from ..utils.sample_errors import SampleError
from .caption_files import captioned_images
from .captions import check_caption, decode_text
from .image_folder import ImageFolder, leaves_folder
from .json_values import InvalidJson
from .record_files import read_record_file
from .skip_summary import SkipSummary

TEXT_FILES = 'text files'
_NAME_KEYS = ('image', 'file_name')
# categories of characters that no list of names and no JSON file can contain:
# control characters, line and paragraph separators, bytes that are not UTF-8
_REFUSED_IN_NAMES = ('Cc', 'Zl', 'Zp', 'Cs')


class Photo(NamedTuple):
    """A photograph with its captions.

    Attributes:
        name: Its image id, or its path below the folder without suffix.
            Several photographs may have the same; ``file`` identifies one.
        file: Absolute path of the image.
        captions: Its captions, at least one, each one line.
        sources: Names of its caption files, or ``TEXT_FILES``.
    """

    name: str
    file: Path
    captions: tuple[str, ...]
    sources: tuple[str, ...] = ()


# by the file of the image, with symbolic links resolved
Photos = dict[Path, Photo]


def path_below(root: Path, file: Path) -> str:
    """The path below a folder, for messages."""
    return os.path.relpath(file, root) if root in file.parents else str(file)


def join_photos(photos: Photos, others: Photos, skipped: SkipSummary) -> None:
    """Add photographs of another caption file, each caption once."""
    for key, other in others.items():
        known = photos.setdefault(key, other)
        if known is other:
            continue
        new = [text for text in other.captions if text not in known.captions]
        photos[key] = known._replace(
            captions=(*known.captions, *new),
            sources=tuple(dict.fromkeys((*known.sources, *other.sources))),
        )
        for _ in range(len(other.captions) - len(new)):
            skipped.add(
                'caption',
                'that another file has for the same image',
                f'{other.file.name} in {", ".join(other.sources)}',
            )


def read_coco_captions(
    path: Path, root: Path, name: str, skipped: SkipSummary
) -> Photos:
    """Read a COCO caption file whose images are below ``root``."""
    records, file_names = read_record_file(path)
    folders = [
        ImageFolder(root / part)
        for part in dict.fromkeys((name, 'images', 'image', ''))
        if (root / part).is_dir()
    ]
    files: dict[str, Path | None] = {}  # by the name of the image
    photos: Photos = {}
    for number, record in enumerate(records):
        where = f'{path.name} record {number}'
        if not isinstance(record, dict):
            reason = 'not in the form of a JSON object'
            if isinstance(record, InvalidJson):
                where += f' {record.reason}'
            skipped.add('record', reason, where)
            continue
        image_id, image = _image_of(record, file_names or {})
        if image is None:
            reason = 'without a usable image_id, image or file_name'
            skipped.add('record', reason, where)
            continue
        if image not in files:
            found = _find(folders, image)
            if found is None:
                missing = f'{image} of {path.name}'
                skipped.add('image', 'without a file', missing)
            elif _refuse_name(found, skipped):
                found = None
            files[image] = found
        file = files[image]
        caption = record.get('caption')
        if file is None:
            continue
        if caption is None:
            skipped.add('record', 'without a caption', where)
            continue
        for text in _usable(caption, where, skipped):
            known = photos.get(file)
            photos[file] = Photo(
                known.name if known else image_id or image,
                file,
                (*known.captions, text) if known else (text,),
                (path.name,),
            )
    return photos


def _image_of(
    record: dict[str, Any], file_names: dict[str, Any]
) -> tuple[str | None, str | None]:
    """Return the id and the file name of an image; None for what is absent.

    An id without a file name is itself the name, unless it leads out of the
    folder.
    """
    image_id = id_key_or_none(record.get('image_id'))
    names = [
        file_names.get(image_id) if image_id is not None else None,
        *(record.get(key) for key in _NAME_KEYS),
    ]
    name = next((n for n in names if isinstance(n, str) and n.strip()), None)
    if image_id is None:
        return None, name
    if name is None and not leaves_folder(image_id):
        name = image_id
    return image_id, name


def _find(folders: Iterable[ImageFolder], name: str) -> Path | None:
    for folder in folders:
        file = folder.find(name)
        if os.path.isfile(file):
            return Path(file).resolve()
    return None


def _resolve(file: Path) -> Path | None:
    """The file without symbolic links; None for a link to itself."""
    try:
        return file.resolve(strict=True)
    except FileNotFoundError:
        return file.resolve()
    except (OSError, RuntimeError):  # RuntimeError before Python 3.13
        return None


def _refuse_name(file: Path, skipped: SkipSummary) -> bool:
    """Skip a file whose name no list of images can contain."""
    refused = any(
        unicodedata.category(char) in _REFUSED_IN_NAMES for char in str(file)
    )
    if refused:
        skipped.add(
            'image',
            'with a line break, a control character or bytes that are not '
            'UTF-8 in the file name',
            file.name,
        )
    return refused


def read_text_captions(
    root: Path, known: Collection[Path], unnamed: str, skipped: SkipSummary
) -> Photos:
    """Read images with a text file of the same name.

    Args:
        root: The folder.
        known: Images that have captions already.
        unnamed: The reason to skip an image without a text file.
        skipped: Gets what is skipped.
    """
    photos: Photos = {}
    texts: dict[Path, tuple[str, ...]] = {}  # dog.jpg and dog.png share one
    for name, text_file in captioned_images(root):
        file = root / name
        key = _resolve(file)
        if key is None:
            skipped.add('image', 'a symbolic link that leads to itself', name)
        elif key in known:
            if text_file is not None:
                skipped.add(
                    'text file',
                    'not used, as a caption file has the image',
                    path_below(root, text_file),
                )
        elif text_file is None:
            skipped.add('image', unnamed, name)
        elif not _refuse_name(file, skipped):
            if text_file not in texts:
                texts[text_file] = _read_text_file(root, text_file, skipped)
            if captions := texts[text_file]:
                stem = Path(name).with_suffix('').as_posix()
                photo = Photo(stem, file, captions, (TEXT_FILES,))
                join_photos(photos, {key: photo}, skipped)
    return photos


def _read_text_file(
    root: Path, path: Path, skipped: SkipSummary
) -> tuple[str, ...]:
    """Return the captions of a text file."""
    name = path_below(root, path)
    try:
        text = decode_text(read_regular(path), 'it')
    except SampleError as error:
        reason = str(error).partition('; ')[0]
        skipped.add('text file', 'not in UTF-8', f'{name}: {reason}')
        return ()
    except (OSError, ValueError) as error:
        skipped.add('text file', 'not readable', one_line(error))
        return ()
    if not text.strip():
        skipped.add('text file', 'without text', name)
    return tuple(
        caption
        for number, line in enumerate(text.splitlines(), 1)
        if line.strip()
        for caption in _usable(line, f'{name} line {number}', skipped)
    )


def _usable(value: object, where: str, skipped: SkipSummary) -> list[str]:
    """Return a caption as one line in a list; an empty list if invalid."""
    try:
        return [check_caption(value, where)]
    except SampleError as error:
        skipped.add('caption', 'not usable', str(error).partition('; ')[0])
        return []
