# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Iterate over the records of any data, through the project's readers.

Unlike the datasets of training, nothing is skipped: an invalid record is an
item with an error, and damage of a shard is reported.
"""

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from ..datasets.captions import parse_caption
from ..datasets.image_folder import ImageFolder
from ..datasets.parse_records import read_record
from ..datasets.record_files import read_record_file
from ..datasets.record_layouts import RecordError
from ..datasets.remote_shards import shown
from ..datasets.shard_files import ShardBytes, is_remote
from ..datasets.shard_samples import group_samples, image_bytes
from ..datasets.tar_reader import TarReader
from ..images.read import read_file
from ..prompts import Turn
from ..utils.errors import printable
from ..utils.file_types import archive_format
from ..utils.regular_files import open_regular
from ..utils.sample_errors import SampleError
from .find_data import DataPart

PIECE_RECORDS = 2000  # of data that are no shards
IMAGE_FOLDERS = ('image', 'images', '')  # of a file of records, in this order
Report = Callable[[str, str], None]


class Span(NamedTuple):
    """Where a sample is in a shard.

    Attributes:
        shard: The shard.
        start: Its first byte in the uncompressed tar.
        end: The byte after it.
    """

    shard: str
    start: int
    end: int


@dataclass(frozen=True)
class ImageRef:
    """An image of a record.

    Attributes:
        name: Its name in reports, unique in the data.
        path: Its file; '' for an image in a shard.
        data: Its bytes, for an image in a shard.
        span: Its sample in the shard.
    """

    name: str
    path: str = ''
    data: bytes | None = field(default=None, repr=False)
    span: Span | None = None

    @property
    def key(self) -> str:
        """What identifies the image: its file, or its place in a shard."""
        if self.span is None:
            return self.path
        return f'{shown(self.span.shard)}:{self.span.start}'


@dataclass(frozen=True)
class DataItem:
    """A record.

    Attributes:
        part: Name of its part of the data.
        id: Its id: that of the record, the key in the shard, or the name of
            the image.
        images: Its images.
        turns: Its turns; empty for an invalid record and for an image
            without a text.
        error: Why it is invalid; None for a valid one.
        held_out: Whether it belongs to a test or validation split.
        shard: Its shard; '' for a record of another kind of data.
        where: Name of its shard in reports; '' for the part.
    """

    part: str
    id: str
    images: tuple[ImageRef, ...] = ()
    turns: tuple[Turn, ...] = ()
    error: str | None = None
    held_out: bool = False
    shard: str = ''
    where: str = ''

    @property
    def name(self) -> str:
        """Shard or part, and id, for reports."""
        if self.where:
            return f'{self.where}#{self.id}'
        return f'{self.part}: {self.id}'


def count_records(part: DataPart) -> int | None:
    """Return the number of records of a part; None before it is read."""
    if part.records is not None:
        return len(part.records.records)
    if part.photos is not None:
        photos = (*part.photos.train, *part.photos.test)
        return sum(len(photo.captions) for photo in photos)
    return len(part.images) if part.kind == 'images' else None


def iterate(
    part: DataPart, report: Report, image_folder: 'Path | None' = None
) -> Iterator[DataItem]:
    """Yield the records of a part in their order.

    Args:
        part: The part.
        report: Called with a kind and a message for damage of a shard and
            for what a folder of photographs lacks.
        image_folder: Folder of the images of a file of records; None is
            ``image`` or ``images`` next to the file, or its own folder.

    Raises:
        OSError: A file cannot be read.
        ValueError: A file of records is damaged.
    """
    if part.kind == 'shards':
        for shard in part.shards:
            yield from _shard_items(part, shard, report)
    elif part.kind == 'records':
        yield from _record_items(part, image_folder)
    elif part.photos is not None:
        yield from _photo_items(part, report)
    else:
        for path in part.images:
            name = path.relative_to(part.path).as_posix()
            ref = ImageRef(part.name_of(path), str(path))
            yield DataItem(part.name, name, (ref,))


class Piece(NamedTuple):
    """Some records of a part, which a check stores together.

    Attributes:
        items: The records.
        shard: Their shard, all of which they are; '' for records of another
            kind of data, which have to be read before the next piece.
    """

    items: Iterator[DataItem]
    shard: str = ''


def divide(
    part: DataPart, report: Report, image_folder: 'Path | None' = None
) -> Iterator[Piece]:
    """Divide the records of a part into shards, or by number.

    Args:
        part: The part.
        report: See :func:`iterate`.
        image_folder: See :func:`iterate`.

    Raises:
        OSError: A file cannot be read.
        ValueError: A file of records is damaged.
    """
    if part.kind == 'shards':
        for shard in part.shards:
            yield Piece(_shard_items(part, shard, report), shard)
        return
    items = iterate(part, report, image_folder)
    number = PIECE_RECORDS

    def count() -> Iterator[DataItem]:
        nonlocal number
        number = 0
        for item in itertools.islice(items, PIECE_RECORDS):
            number += 1
            yield item

    while number == PIECE_RECORDS:
        yield Piece(count())


def _photo_items(part: DataPart, report: Report) -> Iterator[DataItem]:
    assert part.photos is not None
    root = part.path.resolve()
    for line in part.photos.skipped.lines():
        report('skipped', f'{part.name}: {line}')
    for photos, held_out in (
        (part.photos.train, False),
        (part.photos.test, True),
    ):
        for photo in photos:
            file = photo.file
            if file.is_relative_to(root):
                file = file.relative_to(root)
            name = (PurePosixPath(part.prefix) / file.as_posix()).as_posix()
            ref = ImageRef(name, str(photo.file))
            for caption in photo.captions:
                turns = (Turn('', caption),)
                yield DataItem(
                    part.name, photo.name, (ref,), turns, held_out=held_out
                )


def _record_items(
    part: DataPart, image_folder: 'Path | None'
) -> Iterator[DataItem]:
    content = part.records or read_record_file(part.path)
    parent = part.path if part.path.is_dir() else part.path.parent
    folders = (
        [
            ImageFolder(parent / name)
            for name in IMAGE_FOLDERS
            if (parent / name).is_dir()
        ]
        if image_folder is None
        else [ImageFolder(image_folder)]
    )
    for number, item in enumerate(content.records):
        try:
            record = read_record(
                item, number, content.file_names, not part.held_out
            ).content
        except RecordError as error:
            yield _invalid(part, item, number, str(error))
            continue
        turns = list(record['turns'])
        if part.held_out:  # the answer to compare with, if there is one
            turns[-1] = Turn(turns[-1].question, record['answer'])
        images = tuple(
            _image_ref(part, parent, name, _find(folders, name))
            for name in record['images']
        )
        yield DataItem(
            part.name,
            printable(str(record['id'])),
            images,
            tuple(turns),
            held_out=part.held_out,
        )


def _invalid(
    part: DataPart, item: object, number: int, reason: str
) -> DataItem:
    found = None
    if isinstance(item, dict):
        found = item.get('id', item.get('image_id'))
    name = f'record {number}'
    if isinstance(found, (int, str)):
        name += f' (id {printable(str(found))[:60]})'
    return DataItem(part.name, name, error=reason, held_out=part.held_out)


def _image_ref(part: DataPart, parent: Path, name: str, path: str) -> ImageRef:
    """Return an image, named by its path below the source of the data."""
    if Path(path).is_relative_to(parent):
        name = Path(path).relative_to(parent).as_posix()
        name = (PurePosixPath(part.name).parent / name).as_posix()
    return ImageRef(name, path)


def _find(folders: Sequence[ImageFolder], name: str) -> str:
    """Return the first existing file of a name."""
    for folder in folders:
        path = folder.find(name)
        if Path(path).is_file():
            return path
    return folders[0].find(name)


def _shard_items(
    part: DataPart, shard: str, report: Report
) -> Iterator[DataItem]:
    name = part.shard_name(shard)

    def report_of_shard(kind: str, message: str) -> None:
        report(kind, f'{name}: {message}')

    with ShardBytes(shard, shard in part.remote) as chunks:
        reader = TarReader(chunks, report_of_shard, lambda: chunks.size)
        for files, span in samples_with_spans(reader, shard, report_of_shard):
            yield item_of_files(files, part, span)


def item_of_files(files: dict, part: DataPart, span: Span) -> DataItem:
    """Return the record of a sample of a shard.

    Args:
        files: Bytes of the sample's files by suffix.
        part: The part of the shard.
        span: Where the sample is.
    """
    key = printable(files['__key__'])
    images: tuple[ImageRef, ...] = ()
    turns: tuple[Turn, ...] = ()
    errors = []
    where = part.shard_name(span.shard)
    try:
        images = (
            ImageRef(f'{where}#{key}', data=image_bytes(files), span=span),
        )
    except SampleError as error:
        errors.append(str(error))
    try:
        turns = (Turn('', parse_caption(files)),)
    except SampleError as error:
        errors.append(str(error))
    return DataItem(
        part.name,
        key,
        images,
        turns,
        ' '.join(errors) or None,
        part.held_out,
        span.shard,
        where,
    )


class _Member(bytes):
    """The bytes of a file in a shard, an object of its own.

    Python has one object for all empty bytes, and for each single byte.
    """


def samples_with_spans(
    reader: TarReader, shard: str, report: Report
) -> Iterator[tuple[dict, Span]]:
    """Yield the samples of a shard, and where they are in it."""
    recent: deque[tuple[bytes, int, int]] = deque()

    def members() -> Iterator[tuple[str, bytes]]:
        start = 0
        for name, data in reader:
            if len(data) < 2:
                data = _Member(data)
            recent.append((data, start, reader.offset))
            start = reader.offset
            yield name, data

    for files in group_samples(members(), shard, report):
        own = {id(data) for data in files.values()}
        spans = [(s, e) for data, s, e in recent if id(data) in own]
        start = min(s for s, _ in spans)
        end = max(e for _, e in spans)
        while recent and recent[0][2] <= end:
            recent.popleft()
        yield files, Span(shard, start, end)


def read_sample(span: Span) -> dict:
    """Read a sample of a shard again.

    An uncompressed file is read at the place of the sample; of another
    shard everything before it is read too.

    Raises:
        OSError: The shard cannot be read.
        ValueError: The shard has changed.
    """

    def ignore(kind: str, message: str) -> None:
        pass

    remote = is_remote(span.shard)
    if not remote:
        with open_regular(span.shard) as file:
            compressed = archive_format(file.read(8))
            file.seek(span.start)
            data = file.read(span.end - span.start)
        if not compressed:
            for files in group_samples(
                TarReader([data], ignore), span.shard, ignore
            ):
                return files
    with ShardBytes(span.shard, remote) as chunks:
        reader = TarReader(chunks, ignore, lambda: chunks.size)
        for files, found in samples_with_spans(reader, span.shard, ignore):
            if found == span:
                return files
    raise ValueError(f'{shown(span.shard)} has changed since it was read.')


def read_image_bytes(ref: ImageRef) -> bytes:
    """Read the bytes of an image, again where it is in a shard.

    Raises:
        SampleError: The file cannot be read.
        OSError: The shard cannot be read.
        ValueError: The shard has changed.
    """
    if ref.data is not None:
        return ref.data
    if ref.span is not None:
        return image_bytes(read_sample(ref.span))
    return read_file(ref.path)
