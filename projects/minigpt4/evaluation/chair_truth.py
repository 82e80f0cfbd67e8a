# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The classes in each image, from COCO's official files.

The truth of CHAIR unites the classes of the instances with those that the
reference captions name, since annotators overlook objects.

Source: Rohrbach et al. 2018, Object Hallucination in Image Captioning.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..datasets.json_stream import stream_json
from ..datasets.json_values import DuplicateKey, InvalidJson
from ..images.image_ids import ImageIds
from ..utils.atomic import write_atomically
from ..utils.errors import printable, short_json
from ..utils.ids import id_key_or_none
from .object_words import ObjectWords, coco_words

# of a result folder: the classes in each image that has a caption
TRUTH_FILE = 'truth.json'


def coco_truth(
    instances: Sequence[Path],
    captions: Sequence[Path] = (),
    words: ObjectWords | None = None,
) -> dict[str, list[str]]:
    """The classes in each image of COCO's instances files.

    Args:
        instances: ``instances_*.json``. An image without an object has no
            class; crowds count as objects.
        captions: ``captions_*.json``; captions of other images are not used.
        words: Finds the classes that captions name; None for
            :func:`coco_words`.

    Returns:
        The sorted classes by the text of the image's id.

    Raises:
        FileNotFoundError: A file does not exist.
        ValueError: A file is damaged or has other content, an instances file
            has no object, or no caption is of an image of the instances.
    """
    words = words or coco_words()
    found: dict[str, set[str]] = {}
    for path in instances:
        for image, classes in _instance_classes(path, set(words.classes)):
            found.setdefault(image, set()).update(classes)
    used = False
    for path in captions:
        for number, record in _records(path, 'annotations'):
            text = record.get('caption')
            image = _id(path, number, record, 'image_id')
            if not isinstance(text, str):
                raise ValueError(
                    f'{path}: annotation {number:,} has no caption; expected '
                    'captions_*.json of COCO.'
                )
            if image in found:
                used = True
                found[image].update(words.find(text))
    if captions and not used:
        raise ValueError(
            f'{captions[0]} has no caption of an image of {instances[0]}; '
            'expected files of the same images.'
        )
    return {image: sorted(classes) for image, classes in found.items()}


def write_truth(
    folder: Path,
    truth: Mapping[str, Sequence[str]],
    rows: Sequence[Mapping[str, Any]],
) -> None:
    """Store the classes in each image that has a caption.

    Args:
        folder: The result folder.
        truth: The classes in each image.
        rows: The captions.

    Raises:
        OSError: The file cannot be written.
    """
    ids = ImageIds(truth)
    found = (ids.find(row['image_id']) for row in rows)
    kept = {image: truth[image] for image in found if image is not None}
    text = json.dumps(kept, ensure_ascii=False) + '\n'
    write_atomically(
        folder / TRUTH_FILE, text.encode(errors='backslashreplace')
    )


def _instance_classes(
    path: Path, known: set[str]
) -> Iterator[tuple[str, set[str]]]:
    """Yield the classes of each image of a file, or no class."""
    names: dict[Any, str] = {}
    categories: dict[str, set[Any]] = {}
    # the table of categories follows the annotations
    for table, number, record in _all_records(path):
        if table == 'images':
            categories.setdefault(_id(path, number, record, 'id'), set())
        elif table == 'annotations':
            image = _id(path, number, record, 'image_id')
            category = id_key_or_none(record.get('category_id'))
            if category is None:
                raise ValueError(
                    f'{path}: annotation {number:,} has no category_id; '
                    'expected instances_*.json of COCO.'
                )
            categories.setdefault(image, set()).add(category)
        elif table == 'categories':
            name = record.get('name')
            category = id_key_or_none(record.get('id'))
            if (
                category is None
                or not isinstance(name, str)
                or name not in known
            ):
                raise ValueError(
                    f'{path}: category {number:,} is {short_json(name)}, '
                    f'which is none of the {len(known)} classes of COCO.'
                )
            names[category] = name
    if not names or not categories:
        raise ValueError(
            f'{path} has no {"images" if names else "categories"}; expected '
            'instances_*.json of COCO, with the tables images, annotations '
            'and categories.'
        )
    if not any(categories.values()):
        raise ValueError(
            f'{path} has no object in any of its {len(categories):,} images '
            '(its table annotations is missing or empty); expected '
            'instances_*.json of COCO.'
        )
    for image, found in categories.items():
        if unknown := found - names.keys():
            raise ValueError(
                f'{path}: image {printable(image)} has the category_id '
                f'{printable(min(unknown))}, which the table categories '
                'lacks.'
            )
        yield image, {names[category] for category in found}


def _records(path: Path, table: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield number and record of each element of a table.

    Raises:
        ValueError: There is none.
    """
    number = 0
    for name, number_, record in _all_records(path):
        if name == table:
            number = number_
            yield number, record
    if not number:
        raise ValueError(
            f'{path} has no {table}; expected captions_*.json of COCO.'
        )


def _all_records(path: Path) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Yield table, number and record of each object in a table.

    Raises:
        ValueError: The file is damaged, has another content, or has a table
            or a field of a record twice.
    """
    begun: set[str] = set()
    for entry in stream_json(path):
        if isinstance(entry.value, InvalidJson):
            raise ValueError(
                f'{path}: record {entry.number:,} {entry.value.reason}; '
                'expected a file of COCO.'
            )
        if entry.key in ('images', 'annotations', 'categories'):
            if not isinstance(entry.value, dict):
                raise ValueError(
                    f'{path}: record {entry.number:,} of {entry.key} is no '
                    'object; expected a file of COCO.'
                )
            if isinstance(entry.value, DuplicateKey):
                raise ValueError(
                    f'{path}: record {entry.number:,} of {entry.key} has the '
                    f'key {short_json(entry.value.key)} twice; expected it '
                    'once.'
                )
            if entry.number == 1 and entry.key in begun:
                raise ValueError(
                    f'{path} has the table {entry.key} twice; expected it '
                    'once.'
                )
            begun.add(entry.key)
            yield entry.key, entry.number, entry.value


def _id(path: Path, number: int, record: Mapping[str, Any], key: str) -> str:
    value = record.get(key)
    found = id_key_or_none(value)
    if found is None:
        raise ValueError(
            f'{path}: record {number:,} has the {key} {short_json(value)}; '
            'expected the id of an image.'
        )
    return found
