# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The files of a source: what an import does not read, and why none is."""

import os
import re
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path

from PIL import Image

from ..datasets.caption_files import TABLE_SUFFIXES, TEXT_SUFFIXES
from ..datasets.json_stream import stream_json
from ..datasets.json_values import InvalidJson, parse_json
from ..datasets.record_files import LINES_SUFFIXES
from ..datasets.text_stream import open_text, plain_suffix
from ..images.formats import SUFFIXES
from ..prompts.text_validation import json_type
from ..utils.errors import printable
from .import_arrow import parquet_files, saved_files
from .import_coco import annotation_files
from .import_folders import shard_files
from .import_questions import questions_of, vqa_files

# what this project writes next to data: about them, and no data
OUR_FILES = (
    *('import.json', 'skipped.jsonl', 'datasheet.json', 'summary.json'),
    *('problems.jsonl', 'manifest.json', 'retry_links.jsonl'),
)
RECORD_SUFFIXES = ('.json', *LINES_SUFFIXES, *TABLE_SUFFIXES)
_DATA_SUFFIXES = (*RECORD_SUFFIXES, '.parquet', '.arrow')
_RECORDS = '[{"image": "a.jpg", "caption": "a dog"}]'
_SINGLE_QUOTES = re.compile(r"[\[\s]*\{\s*'")
_START = 4000  # characters


def has_shard_tables(parquets: Iterable[Path], shards: list[Path]) -> bool:
    """Whether all Parquet files are tables of shards, of img2dataset."""
    stems = {(file.parent, file.name.partition('.')[0]) for file in shards}
    return bool(stems) and all(
        (file.parent, file.stem) in stems for file in parquets
    )


def without_tables_of_shards(
    names: Sequence[str], shards: Iterable[str]
) -> list[str]:
    """Omit the files that img2dataset writes for each shard.

    Args:
        names: Names of the files of a folder.
        shards: Those of them that are shards.
    """
    stems = {shard.partition('.')[0] for shard in shards}
    return [
        name
        for name in names
        if name.removesuffix('.parquet') not in stems
        and name.removesuffix('_stats.json') not in stems
    ]


def record_files(folder: Path) -> list[Path]:
    """The tables and JSON files of a folder, without those of this project."""
    return [
        path
        for path in sorted(folder.iterdir())
        if plain_suffix(path) in RECORD_SUFFIXES and path.name not in OUR_FILES
    ]


def files_not_read(
    source: Path, path: Path, format_name: str, out: Path
) -> list[str]:
    """The files of a folder that look like data and are not imported.

    Args:
        source: The source; a file has none.
        path: The file or folder that is read as the format.
        format_name: The name of the format.
        out: The folder of the import, which may be in the source.

    Returns:
        Their paths below the source; text files next to images as one.
    """
    if not source.is_dir():
        return []
    read = {os.path.abspath(file) for file in _files_read(path, format_name)}
    found = []
    num_texts = 0
    for parent, folders, names in os.walk(source):
        folders[:] = sorted(
            name
            for name in folders
            if name[0] != '.' and Path(parent, name).resolve() != out.resolve()
        )
        stems = {
            os.path.splitext(name)[0]
            for name in names
            if os.path.splitext(name)[1].lower() in SUFFIXES
        }
        for name in sorted(names):
            file = Path(parent, name)
            stem, suffix = os.path.splitext(name)
            if suffix.lower() in TEXT_SUFFIXES and stem in stems:
                num_texts += format_name != 'folder'
            elif (
                _is_data(file)
                and os.path.abspath(file) not in read
                and not _belongs_to(file, format_name)
            ):
                found.append(file.relative_to(source).as_posix())
    if num_texts:
        found.append(f'{num_texts:,} text files next to images')
    return found


def _is_data(file: Path) -> bool:
    if file.name in OUR_FILES or file.name[0] == '.':
        return False
    name = file.name.lower()
    is_tar = name.endswith('.tgz') or '.tar' in name[-8:]
    return is_tar or plain_suffix(file) in _DATA_SUFFIXES


def _belongs_to(file: Path, format_name: str) -> bool:
    """Whether a file is part of a format that its reader does not need."""
    if format_name == 'hf':
        return file.suffix == '.json'
    # img2dataset writes both for each shard
    return format_name == 'shards' and (
        file.suffix == '.parquet' or file.name.endswith('_stats.json')
    )


def _files_read(path: Path, format_name: str) -> list[Path]:
    if path.is_file() or format_name == 'folder':
        return [path]
    if format_name == 'vqa':
        files = vqa_files(path)
        try:
            return [*files, *map(questions_of, files)]
        except ValueError:
            return files  # --questions names the file
    if format_name.startswith('coco-'):
        return annotation_files(path, format_name.removeprefix('coco-'))
    if format_name == 'narratives':
        return sorted(path.glob('*.jsonl*'))
    readers = dict(parquet=parquet_files, shards=shard_files, hf=saved_files)
    return readers[format_name](path) if format_name in readers else []


def describe_source(source: Path) -> str:
    """What a source contains whose format is not known, for an error."""
    if source.is_dir():
        return _describe_folder(source)
    try:
        with Image.open(source) as image:
            return (
                f'it is a {image.format} image; give a file of captions, or '
                'the folder of the images with their text files'
            )
    except Exception:  # no image: Pillow raises errors of many types
        pass
    with open_text(source) as file:
        start = file.read(_START).strip()
    if not start:
        return 'it contains only white space'
    if _SINGLE_QUOTES.match(start):
        return (
            'its keys are in single quotation marks, which is not JSON; '
            'write it with json.dump of Python'
        )
    try:
        value = parse_json(start)
    except ValueError:  # a longer file is cut
        if start[0] in '[{':
            return _describe_json(source)
        return (
            f'it begins with the text {printable(start[:40])!r}, which is '
            'not JSON; if it is a table of an image and a text in each line, '
            'add --format csv'
        )
    if isinstance(value, (list, dict)) and value:
        return _describe_json(source)
    kind = json_type(value).removeprefix('a ').removeprefix('an ')
    empty = 'an empty ' if isinstance(value, (list, dict)) else ''
    return f'it contains {empty or "a "}{kind}; expected {_RECORDS}'


def _describe_json(source: Path) -> str:
    """What a JSON file without a known record contains."""
    for entry in islice(stream_json(source), 1):
        if isinstance(entry.value, InvalidJson):
            return f'it {entry.value.reason}'
        if isinstance(entry.value, dict):
            keys = ', '.join(map(str, entry.value))
            return f'its first record has the keys {printable(keys)}'[:200]
        kind = json_type(entry.value)
        if entry.key is None:
            return f'its first value is {kind}; expected {_RECORDS}'
        key = printable(entry.key)[:80]
        return (
            f'it is an object whose first key {key!r} has '
            f'{"a list with " * entry.in_list}{kind}; expected {_RECORDS}'
        )
    return f'no record is found in it; expected {_RECORDS}'


def _describe_folder(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir())
    if not names:
        return 'it is empty'
    files = [path.name for path in record_files(folder)]
    if len(files) > 1:
        return (
            f'it contains {len(files)} files of records, '
            f'{printable(", ".join(files[:8]))}; import them one by one'
        )
    for parent, _, inside in os.walk(folder):
        for name in sorted(inside):
            stem, suffix = os.path.splitext(name)
            if suffix.lower() in SUFFIXES and name[0] != '.':
                image = Path(parent, name).relative_to(folder)
                return (
                    f'it has images without texts; expected text files such '
                    f'as {printable(stem)}.txt next to '
                    f'{printable(str(image))}'
                )
    return f'the folder contains {printable(", ".join(names[:8]))}'
