# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Find the data in a folder or file, and recognise its layout."""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
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
_MAGIC = re.compile(r'[*?\[{]')
_HELD_OUT = re.compile(r'(test|val|valid|validation|dev|eval)\d*(_.*)?\Z')
_IMPORTED = ('.parquet', '.arrow')  # read by "minigpt4 data import" only
_MAX_DEPTH = 3  # of subfolders in which data are searched
_RECOGNISED_BY = 100  # first records of a file, one of which is valid


class DataPart(NamedTuple):
    """A part of the data that one reader reads.

    Attributes:
        name: Its name in reports, unique in the data: the file, or the
            folder or pattern of the shards.
        kind: ``'shards'``, ``'records'``, ``'photos'`` or ``'images'``.
        path: The file or folder; of shards the folder or the pattern.
        root: The folder of its source; None for URLs and commands.
        prefix: With several sources, the path of ``root`` relative to the
            folder that they have in common, which begins each name.
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
    root: Path | None = None
    prefix: str = ''
    shards: tuple[str, ...] = ()
    remote: frozenset[str] = frozenset()
    held_out: bool = False
    records: RecordFile | None = None
    photos: PhotoFolder | None = None
    images: tuple[Path, ...] = ()

    def name_of(self, path: 'str | Path') -> str:
        """Return the name of a file below ``root`` in reports."""
        assert self.root is not None
        where = relative_name(path, self.root)
        return (PurePosixPath(self.prefix) / where).as_posix()

    def shard_name(self, shard: str) -> str:
        """Return the name of a shard in reports."""
        if shard in self.remote or Path(shard).parent == self.path:
            return f'{self.name}/{Path(shard).name}'
        return self.name_of(shard)


class FoundData(NamedTuple):
    """The parts of the data, and what was not used.

    Attributes:
        parts: The parts.
        ignored: Files that look like data and have no records, and shards
            that do not exist, with the reason.
    """

    parts: list[DataPart]
    ignored: list[str]


def common_root(parts: Iterable[DataPart]) -> Path | None:
    """Return the folder that the sources of all parts have in common.

    It depends on the sources only, not on the files in them. None if no
    part is local, or if they are on several drives.
    """
    roots = {os.path.abspath(part.root) for part in parts if part.root}
    try:
        return Path(os.path.commonpath(roots)) if roots else None
    except ValueError:
        return None


def relative_name(path: 'str | Path', root: Path | None) -> str:
    """Return a path relative to a folder; None gives an absolute one."""
    if root is None:
        return Path(os.path.abspath(path)).as_posix()
    return Path(os.path.relpath(path, root)).as_posix()


def find_data(sources: Sequence[str]) -> FoundData:
    """Find the data of a command line.

    Args:
        sources: Each is a folder, a file of records, a shard, or a pattern
            of shards with braces or wildcards. In a folder these are
            searched, also in its subfolders: COCO's ``captions*.json``;
            shards; files of records; text files next to images; images.
            What several sources contain is one part.

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
    repeated, parts = _without_repetitions(found.parts)
    if repeated:
        found.ignored.append(
            f'several sources contain the same files ({repeated}); each is '
            'read once.'
        )
    return found._replace(parts=_with_prefixes(parts))


def _without_repetitions(
    parts: Iterable[DataPart],
) -> tuple[int, list[DataPart]]:
    """Return how many shards, files and folders repeat, and the rest."""
    seen: set[str] = set()
    repeated, kept = 0, []
    for part in parts:
        shards = {
            shard if shard in part.remote else os.path.abspath(shard): shard
            for shard in part.shards or (str(part.path),)
        }
        new = {key: shard for key, shard in shards.items() if key not in seen}
        repeated += max(len(part.shards), 1) - len(new)
        seen.update(new)
        if new and part.shards:
            part = part._replace(shards=tuple(new.values()))
        if new:
            kept.append(part)
    return repeated, kept


def _with_prefixes(parts: list[DataPart]) -> list[DataPart]:
    """Give parts of different sources different names."""
    base = common_root(parts)
    return [_with_prefix(part, base) for part in parts]


def _with_prefix(part: DataPart, base: Path | None) -> DataPart:
    if part.root is None:
        return part
    prefix = relative_name(part.root, base)
    if prefix == '.':
        return part
    name = prefix if part.path == part.root else f'{prefix}/{part.name}'
    return part._replace(name=name, prefix=prefix)


def _is_tar(path: Path) -> bool:
    with open(path, 'rb') as file:
        return file.read(265)[257:262] == b'ustar'


def _records_part(path: Path, records: RecordFile | None = None) -> DataPart:
    return DataPart(
        path.name,
        'records',
        path,
        path.parent,
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
            None if remote else _root_of(pattern),
            shards=tuple(shards),
            remote=frozenset(remote),
            held_out=bool(_HELD_OUT.match(name.lower())),
        )
    )


def _root_of(pattern: str) -> Path:
    """Return the last folder of a pattern before braces or wildcards."""
    folder = Path(re.sub('^file:(//)?', '', pattern)).parent
    parents = [folder, *folder.parents]
    return next(each for each in parents if not _MAGIC.search(str(each)))


def _search(found: FoundData, root: Path) -> None:
    """Add the parts of a folder.

    Raises:
        FileNotFoundError: It has no data.
    """
    if caption_files(root):
        found.parts.append(
            DataPart(root.name, 'photos', root, root, photos=read_photos(root))
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
                DataPart(
                    name,
                    'shards',
                    folder,
                    root,
                    shards=shards,
                    held_out=held_out,
                )
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
            part = _records_part(path, content)._replace(name=name, root=root)
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
        return DataPart(root.name, 'images', root, root, images=images)
    return DataPart(root.name, 'photos', root, root, photos=photos)
