# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Find the data in a folder or file, and recognise its layout."""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ..datasets.parse_records import read_record
from ..datasets.photo_folder import (
    COCO_URLS,
    PhotoFolder,
    caption_files,
    read_photos,
)
from ..datasets.record_files import RecordFile, read_record_file
from ..datasets.record_layouts import RecordError
from ..datasets.remote_shards import shown
from ..datasets.shard_files import find_shards, is_remote
from ..images.formats import SUFFIXES
from ..utils.errors import one_line, printable
from .source_files import (
    OUR_FILES,
    RECORD_SUFFIXES,
    without_tables_of_shards,
)

_TAR = re.compile(r'\.(tar(\.\w+)?|tgz|txz|tbz2?)\Z', re.IGNORECASE)
_HELD_OUT = re.compile(r'(test|val|valid|validation|dev|eval)\d*(_.*)?\Z')
_IMPORTED = ('.parquet', '.arrow')  # read by "minigpt4 data import" only
_MAX_DEPTH = 3  # of subfolders in which data are searched
_RECOGNISED_BY = 100  # first records of a file, one of which is valid


class DataPart(NamedTuple):
    """A part of the data that one reader reads.

    Attributes:
        name: Its name in reports: the file, or the folder of the shards.
        kind: ``'shards'``, ``'records'``, ``'photos'`` or ``'images'``.
        path: The file or folder; of shards the folder or the pattern.
        shards: The shards.
        remote: Those of the shards that are URLs or commands.
        held_out: Whether its name is that of a test or validation split.
        records: The content of a file of records that was read to
            recognise it; None where it is read later.
        photos: The photographs of a folder.
        images: The image files of a folder without captions.
    """

    name: str
    kind: str
    path: Path
    shards: tuple[str, ...] = ()
    remote: frozenset[str] = frozenset()
    held_out: bool = False
    records: RecordFile | None = None
    photos: PhotoFolder | None = None
    images: tuple[Path, ...] = ()


class FoundData(NamedTuple):
    """The parts of the data, and what was not used.

    Attributes:
        parts: The parts.
        ignored: Files that look like data and have no records, and shards
            that do not exist, with the reason.
    """

    parts: list[DataPart]
    ignored: list[str]


def find_data(sources: Sequence[str]) -> FoundData:
    """Find the data of a command line.

    Args:
        sources: Each is a folder, a file of records, a shard, or a pattern
            of shards with braces or wildcards. In a folder these are
            searched, also in its subfolders: COCO's ``captions*.json``;
            shards; files of records; text files next to images; images.

    Raises:
        FileNotFoundError: A source does not exist, or a folder has no data.
        ValueError: A file is not of a known layout.
    """
    found = FoundData([], [])
    for source in sources:
        source = os.path.expanduser(source)
        path = Path(source)
        if is_remote(source):
            _add_shards(found, source)
        elif path.is_dir():
            _search(found, path)
        elif path.is_file() and path.suffix.lower() in RECORD_SUFFIXES:
            found.parts.append(_records_part(path))
        elif _TAR.search(source) or (path.is_file() and _is_tar(path)):
            _add_shards(found, source)
        elif path.is_file() and path.suffix.lower() in _IMPORTED:
            raise ValueError(
                f'{source} is a file that training does not read; convert '
                f'it first: minigpt4 data import {source} -o DIR'
            )
        elif path.exists():
            raise ValueError(
                f'{source} is no data that is known; expected a folder, a '
                f'shard (.tar) or a file of records '
                f'({", ".join(RECORD_SUFFIXES)}).'
            )
        else:
            raise FileNotFoundError(
                f'{source} does not exist; expected a folder, shards or a '
                'file of records.'
            )
    return found


def _is_tar(path: Path) -> bool:
    with open(path, 'rb') as file:
        return file.read(265)[257:262] == b'ustar'


def _records_part(path: Path, records: RecordFile | None = None) -> DataPart:
    return DataPart(
        path.name,
        'records',
        path,
        held_out=bool(_HELD_OUT.match(path.stem.lower())),
        records=records,
    )


def _add_shards(found: FoundData, pattern: str) -> None:
    """Add the shards of a pattern.

    Raises:
        FileNotFoundError: None of them exists.
    """
    shards, remote, missing = find_shards(pattern)
    if not shards:
        raise FileNotFoundError(
            f'no shard matches {shown(pattern)}; expected tar files.'
        )
    if missing:
        found.ignored.append(
            f'{missing} of {missing + len(shards)} shards of '
            f'{printable(shown(pattern))} do not exist.'
        )
    name = Path(shards[0]).parent.name
    found.parts.append(
        DataPart(
            Path(shown(pattern)).name,
            'shards',
            Path(pattern),
            tuple(shards),
            frozenset(remote),
            bool(_HELD_OUT.match(name.lower())),
        )
    )


def _search(found: FoundData, root: Path) -> None:
    """Add the parts of a folder.

    Raises:
        FileNotFoundError: It has no data.
    """
    if caption_files(root):
        found.parts.append(
            DataPart(root.name, 'photos', root, photos=read_photos(root))
        )
        return
    before = len(found.parts)
    for folder, names in _folders(root):
        tars = [name for name in names if _TAR.search(name)]
        names = without_tables_of_shards(names, tars)
        where = folder.relative_to(root).as_posix()
        name = root.name if where == '.' else where
        if tars:
            shards = tuple(str(folder / tar) for tar in tars)
            held_out = bool(_HELD_OUT.match(folder.name.lower()))
            found.parts.append(
                DataPart(name, 'shards', folder, shards, held_out=held_out)
            )
        for file in names:
            if Path(file).suffix.lower() in RECORD_SUFFIXES:
                _recognise(found, folder / file, root)
            elif Path(file).suffix.lower() in _IMPORTED:
                place = printable((folder / file).relative_to(root).as_posix())
                found.ignored.append(
                    f'{place} is not used: training does not read such '
                    'files; convert it with "minigpt4 data import".'
                )
    if len(found.parts) == before:
        found.parts.append(_photos_or_images(root))


def _folders(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yield the folders of a folder, to a limited depth, with their files."""
    for parent, folders, names in os.walk(root):
        depth = len(Path(parent).relative_to(root).parts)
        folders[:] = sorted(
            name for name in folders if name[0] != '.' and depth < _MAX_DEPTH
        )
        yield Path(parent), sorted(name for name in names if name[0] != '.')


def _recognise(found: FoundData, path: Path, root: Path) -> None:
    """Add a file if one of its first records is valid."""
    name = path.relative_to(root).as_posix()
    try:
        content = read_record_file(path)
    except (ValueError, OSError) as error:
        if path.name in OUR_FILES:
            return
        reason = one_line(error).replace(str(path), name)
        found.ignored.append(f'{printable(name)} is not used: {reason}')
        return
    for number, item in enumerate(content.records[:_RECOGNISED_BY]):
        try:
            read_record(item, number, content.file_names, keep_answers=False)
        except RecordError as error:
            reason = str(error)
        else:
            part = _records_part(path, content)._replace(name=name)
            held_out = part.held_out or bool(
                _HELD_OUT.match(path.parent.name.lower())
            )
            found.parts.append(part._replace(held_out=held_out))
            return
    if path.name in OUR_FILES:
        return  # counts and reports, no data
    found.ignored.append(
        f'{printable(name)} is not used: its records are no training data '
        f'(record {number}: {reason}).'
    )


def _photos_or_images(root: Path) -> DataPart:
    """Return the captioned images of a folder, or its images.

    Raises:
        FileNotFoundError: It has no image.
    """
    images = tuple(
        folder / name
        for folder, names in _folders(root)
        for name in names
        if Path(name).suffix.lower() in SUFFIXES
    )
    if not images:
        raise FileNotFoundError(
            f'{root} has no data; expected shards (.tar), a file of records '
            f'({", ".join(RECORD_SUFFIXES)}), or images with or without text '
            f'files. For COCO val2017 unpack {" and ".join(COCO_URLS)} in '
            'one folder.'
        )
    try:
        photos = read_photos(root)
    except FileNotFoundError:
        return DataPart(root.name, 'images', root, images=images)
    return DataPart(root.name, 'photos', root, photos=photos)
