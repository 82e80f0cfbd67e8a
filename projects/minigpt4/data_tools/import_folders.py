# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Read a folder of images with text files, and tar shards."""

from collections.abc import Iterator
from pathlib import Path

from ..datasets.caption_files import captioned_images
from ..datasets.captions import decode_text, parse_caption
from ..datasets.json_values import parse_json
from ..datasets.shard_files import ShardBytes
from ..datasets.shard_samples import IMAGE_SUFFIXES, group_samples
from ..datasets.tar_reader import TarReader
from ..utils.errors import one_line
from ..utils.regular_files import read_regular
from ..utils.sample_errors import SampleError
from .image_places import absolute_path
from .import_items import Item, ReadOptions


def read_text_folder(path: Path, options: ReadOptions) -> Iterator[Item]:
    """Read images with a text file of the same name, also in subfolders."""
    root = absolute_path(path)  # else names would be relative to the source
    for image, text_file in captioned_images(path):
        file = root / image
        if text_file is None:
            yield Item(file, 0, None, 'has no text file of the same name')
            continue
        try:
            text = decode_text(read_regular(text_file), 'the text')
        except (SampleError, OSError, ValueError) as error:
            yield Item(text_file, 0, None, one_line(error).rstrip('.'))
            continue
        lines = [text] if options.whole_files else text.splitlines()
        number = 0
        for number, line in enumerate(lines, 1):
            if line.strip():
                record = dict(image=str(file), caption=line.strip())
                yield Item(text_file, number, record, unit='line')
        if not text.strip():
            yield Item(text_file, 0, None, 'has no text')


def shard_files(path: Path) -> list[Path]:
    """The tar files of a folder and its subfolders; a file itself."""
    if path.is_file():
        return [path]
    return sorted(
        file
        for pattern in ('*.tar', '*.tar.*', '*.tgz')
        for file in path.rglob(pattern)
        if file.is_file()
    )


def read_shards(path: Path, options: ReadOptions) -> Iterator[Item]:
    """Read tar shards, as stage 1 does; the images are part of the items."""
    for shard in shard_files(path):
        yield from _read_shard(shard)


def _read_shard(shard: Path) -> Iterator[Item]:
    problems: list[str] = []

    def report(kind: str, message: str) -> None:
        problems.append(message.rstrip('.'))

    with ShardBytes(str(shard)) as chunks:
        members = TarReader(chunks, report, lambda: chunks.size)
        samples = group_samples(members, str(shard), report)
        for number, files in enumerate(samples, 1):
            yield _sample(shard, number, files)
    for problem in problems:
        yield Item(shard, 0, None, f'is damaged: {problem}')


def _sample(shard: Path, number: int, files: dict) -> Item:
    key = files['__key__']
    suffix = next((s for s in IMAGE_SUFFIXES if s in files), None)
    if suffix is None:
        return Item(shard, number, None, f'({key}) has no image')
    record = _details(files)
    try:
        record['caption'] = parse_caption(files)
    except SampleError as error:
        if 'conversations' not in record and 'question' not in record:
            return Item(
                shard, number, None, f'({key}): {one_line(error)}'.rstrip('.')
            )
    record['image'] = f'{key.replace("/", "_")}.{suffix}'
    record.setdefault('id', key)
    return Item(shard, number, record, image=files[suffix])


def _details(files: dict) -> dict:
    """The object in the JSON of a sample; empty if it cannot be used."""
    try:
        value = parse_json(files['json'].decode('utf-8-sig'))
    except (KeyError, ValueError):
        return {}  # the caption may be in the text file
    return dict(value) if isinstance(value, dict) else {}
