# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The formats of ``minigpt4 data import``, and how each is recognised."""

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from ..datasets.caption_files import TABLE_SUFFIXES, captioned_images
from ..datasets.json_stream import stream_json
from ..datasets.text_stream import plain_suffix
from ..images.formats import SUFFIXES
from ..utils.suggest import suggest
from .import_arrow import parquet_files, read_parquet, read_saved
from .import_coco import annotation_files, read_captions, read_instances
from .import_conversations import read_narratives, read_records
from .import_folders import read_shards, read_text_folder, shard_files
from .import_items import Item, ReadOptions
from .import_questions import read_aokvqa, read_gqa, read_vqa, vqa_files
from .import_tables import read_csv, read_json_table
from .source_files import describe_source, has_shard_tables, record_files

Reader = Callable[[Path, ReadOptions], Iterator[Item]]


class Format(NamedTuple):
    """A format.

    Attributes:
        name: Its name for ``--format``.
        content: What its files contain.
        recognised_by: How it is recognised.
        read: Its reader.
    """

    name: str
    content: str
    recognised_by: str
    read: Reader


FORMATS = (
    Format(
        'folder',
        'images with .txt or .caption files of the same name',
        'a folder with such files',
        read_text_folder,
    ),
    Format(
        'csv',
        'CSV or TSV of an image (path or URL) and a text',
        '.csv or .tsv; a header with known columns, or two columns without',
        read_csv,
    ),
    Format(
        'json',
        'JSON or JSON lines of an image (path or URL) and a text',
        'records with a column of images and one of texts',
        read_json_table,
    ),
    Format(
        'parquet',
        'Parquet of an image (path, URL or bytes) and a text',
        '.parquet, or a folder with such files',
        read_parquet,
    ),
    Format(
        'hf',
        'a folder of Hugging Face datasets (save_to_disk)',
        'state.json or dataset_dict.json in the folder',
        read_saved,
    ),
    Format(
        'coco-captions',
        'captions_*.json of COCO',
        'the tables images and annotations, with captions',
        read_captions,
    ),
    Format(
        'coco-instances',
        'instances_*.json of COCO: object classes of each image',
        'annotations with category_id',
        read_instances,
    ),
    Format(
        'cc_sbu_align',
        'filter_cap.json of MiniGPT-4',
        'annotations of image_id and caption without a table images',
        read_captions,
    ),
    Format(
        'llava',
        'conversations of LLaVA, JSON or JSON lines',
        'records with conversations or messages',
        read_records,
    ),
    Format(
        'mmpretrain',
        'conversations of MMPretrain',
        'records with conversation',
        read_records,
    ),
    Format(
        'questions',
        'records of image, question and answer',
        'records with question',
        read_records,
    ),
    Format(
        'narratives',
        'Localized Narratives, JSON lines',
        'records with annotator_id and caption',
        read_narratives,
    ),
    Format(
        'vqa',
        'VQAv2 and OK-VQA: *_annotations.json, questions next to it',
        'annotations with question_id',
        read_vqa,
    ),
    Format(
        'a-okvqa',
        'aokvqa_v1p0_*.json',
        'records with direct_answers or correct_choice_idx',
        read_aokvqa,
    ),
    Format(
        'gqa',
        '*_questions.json of GQA',
        'an object of questions by id, with imageId',
        read_gqa,
    ),
    Format(
        'shards',
        'tar shards (webdataset, img2dataset)',
        '.tar, or a folder with such files',
        read_shards,
    ),
)
BY_NAME = {format_.name: format_ for format_ in FORMATS}


def find_format(source: Path, name: str | None = None) -> tuple[Format, Path]:
    """The format of a source, and the file or folder to read.

    Args:
        source: A file or folder.
        name: A format, which is then not recognised.

    Raises:
        FileNotFoundError: The source does not exist.
        ValueError: The format is not known or not recognised.
    """
    if name is not None and name not in BY_NAME:
        close = suggest(name, BY_NAME)
        raise ValueError(
            f'the format {name!r} is not known; '
            + (f'did you mean {close!r}? ' if close else '')
            + '"minigpt4 data import --formats" lists all.'
        )
    if not source.exists():
        raise FileNotFoundError(
            f'{source} does not exist; expected a file or folder of one of '
            'the formats that "minigpt4 data import --formats" lists.'
        )
    if name is None:
        found = _of_folder(source) if source.is_dir() else _of_file(source)
        if found is not None:
            return BY_NAME[found[0]], found[1]
        raise ValueError(
            f'{source} has no known format ({describe_source(source)}); '
            '--format sets one that --formats lists.'
        )
    return BY_NAME[name], source


def _of_folder(folder: Path) -> tuple[str, Path] | None:
    tests: tuple[tuple[str, Any], ...] = (
        ('hf', (folder / 'dataset_dict.json').is_file()),
        ('hf', (folder / 'state.json').is_file()),
        ('coco-captions', annotation_files(folder, 'captions')),
        ('vqa', vqa_files(folder)),
        ('coco-instances', annotation_files(folder, 'instances')),
    )
    for name, found in tests:
        if found:
            return name, folder
    for file in (folder / 'filter_cap.json', folder / 'metadata.jsonl'):
        if file.is_file():  # metadata: the image folders of Hugging Face
            return _of_file(file)
    if (folder / 'metadata.csv').is_file():
        return 'csv', folder / 'metadata.csv'
    parquets, shards = parquet_files(folder), shard_files(folder)
    if parquets and not has_shard_tables(parquets, shards):
        return 'parquet', folder
    if shards:
        return 'shards', folder
    if any(text for _, text in captioned_images(folder)):
        return 'folder', folder
    files = record_files(folder)
    return _of_file(files[0]) if len(files) == 1 else None


def _of_file(path: Path) -> tuple[str, Path] | None:
    suffix = plain_suffix(path)
    name = path.name.lower()
    if '.tar' in name[-8:] or suffix == '.tgz':
        return 'shards', path
    fixed = {'.parquet': 'parquet', '.arrow': 'hf'}
    fixed |= {table: 'csv' for table in TABLE_SUFFIXES}
    if suffix in fixed:
        return fixed[suffix], path
    if suffix in SUFFIXES:
        return None  # an image is no file of records
    key, value = _first_record(path)
    found = _of_record(key, value, path) if isinstance(value, dict) else None
    return None if found is None else (found, path)


def _first_record(path: Path) -> tuple[str | None, Any]:
    """The first entry that is a record, with its key in the file.

    COCO's table of images may be long; it is read to its end.
    """
    first: tuple[str | None, Any] = (None, None)
    tables = ('images', 'licenses', 'categories', 'info')
    with_images = False
    for entry in islice(stream_json(path), 20_000_000):
        if entry.key in tables:
            with_images |= entry.key == 'images'
            continue
        if isinstance(entry.value, dict):
            first = entry.key, entry.value
            if entry.key is None or entry.in_list or 'imageId' in entry.value:
                break
    key, value = first
    return ('annotations+images' if key and with_images else key), value


def _of_record(key: str | None, record: dict, path: Path) -> str | None:
    """The format by the keys of its first record."""
    keys = set(record)
    if 'imageId' in keys and key is not None:
        return 'gqa'
    if key == 'questions' or {'question_id', 'answers'} <= keys:
        return 'vqa'
    if {'direct_answers', 'correct_choice_idx', 'rationales'} & keys:
        return 'a-okvqa'
    if {'conversations', 'messages'} & keys:
        return 'llava'
    if 'conversation' in keys:
        return 'mmpretrain'
    if {'annotator_id', 'caption'} <= keys:
        return 'narratives'
    if key is not None and 'category_id' in keys:
        return 'coco-instances'
    if {'image_id', 'caption'} <= keys:
        # cc_sbu_align has no ids of annotations and no table of images
        is_coco = key == 'annotations+images' or (key and 'id' in keys)
        return 'coco-captions' if is_coco else 'cc_sbu_align'
    if 'question' in keys:
        return 'questions'
    return 'json' if keys else None
