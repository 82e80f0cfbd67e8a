# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Read COCO's captions and instances, and cc_sbu_align."""

import re
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..datasets.json_stream import stream_json
from ..datasets.json_values import DuplicateKey, InvalidJson
from ..utils.ids import checked_id, id_key, id_key_or_none
from .import_items import Item, ReadOptions, invalid_item

OBJECTS_QUESTION = 'Which objects are in this image?'
_ANNOTATION_FILE = re.compile(r'(?:captions|instances)_?.*[.]json(?:[.]gz)?')


class _Images:
    """COCO's table of images: file names by image id."""

    def __init__(self) -> None:
        self.names: dict[Any, Any] = {}

    def add(self, image: Any) -> None:
        if not isinstance(image, dict):
            return
        key = id_key_or_none(image.get('id'))
        if key is None:
            return
        name = image.get('file_name')
        if self.names.setdefault(key, name) != name:
            self.names[key] = None  # two files have this id


def annotation_files(path: Path, kind: str) -> list[Path]:
    """The files of a kind in a folder, or in its folder ``annotations``.

    Args:
        path: The folder, or a file, which is returned.
        kind: The beginning of their names, ``'captions'`` or
            ``'instances'``.
    """
    if path.is_file():
        return [path]
    return [
        file
        for folder in (path, path / 'annotations')
        for file in sorted(folder.glob(f'{kind}*.json*'))
        if _ANNOTATION_FILE.fullmatch(file.name)
    ]


def read_captions(path: Path, options: ReadOptions) -> Iterator[Item]:
    """Read COCO's captions, or cc_sbu_align, which has no table of images."""
    objects = None
    if options.objects is not None:
        objects, problems = read_classes(options)
        yield from problems
    for file in annotation_files(path, 'captions'):
        yield from _read_captions(file, objects)


def _read_captions(
    path: Path, objects: dict[Any, list[str]] | None
) -> Iterator[Item]:
    table = _Images()
    complete = False
    for entry in stream_json(path):
        if entry.key == 'images':
            table.add(entry.value)
            continue
        if entry.key not in (None, 'annotations') or not entry.in_list:
            continue
        if invalid := invalid_item(path, entry):
            yield invalid
            continue
        if not table.names and not complete and entry.key is not None:
            _read_table(path, table)  # it may follow the annotations
            complete = True
        record = entry.value
        if isinstance(record, DuplicateKey):
            yield Item(path, entry.number, record)
            continue
        given = record.get('image_id')
        image_id = id_key_or_none(given)
        if objects is not None:
            record['objects'] = objects.get(image_id or '', [])
        if table.names and 'image' not in record:
            name = table.names.get(image_id)
            if name is None:
                yield Item(
                    path, entry.number, None, _no_name(given, table.names)
                )
                continue
            record['image'] = name
        yield Item(path, entry.number, record)


def _no_name(image_id: Any, names: dict[Any, Any]) -> str:
    if image_id is None:
        return 'has no image_id'
    try:
        key = id_key(image_id)
    except ValueError as error:
        return f'has an image_id that {error}'
    if key in names:
        return (
            f'has the image_id {image_id!r}, which has no or more than one '
            'file_name in the table "images"'
        )
    return f'has the image_id {image_id!r}, which the table "images" lacks'


def _read_table(path: Path, table: _Images) -> None:
    for entry in stream_json(path):
        if entry.key == 'images':
            table.add(entry.value)


def read_instances(path: Path, options: ReadOptions) -> Iterator[Item]:
    """Read the object classes of each image of COCO's instances file.

    Yields:
        A question about the objects; the answer lists their classes, and
        ``objects`` of the record has them as a list.
    """
    for file in annotation_files(path, 'instances'):
        table, classes, problems, given = _classes(file)
        yield from problems
        for number, (key, names) in enumerate(classes.items(), 1):
            image_id = given[key]
            name = table.names.get(key)
            if name is None:
                reason = _no_name(image_id, table.names)
                yield Item(file, number, None, reason, 'image')
                continue
            yield Item(
                file,
                number,
                dict(
                    id=image_id,
                    image=name,
                    question=OBJECTS_QUESTION,
                    answer=', '.join(names),
                    objects=names,
                ),
                unit='image',
            )


def read_classes(
    options: ReadOptions,
) -> tuple[dict[Any, list[str]], list[Item]]:
    """The names of the object classes by image id, and what cannot be used.

    Raises:
        ValueError: The file has no objects.
    """
    assert options.objects is not None
    _, classes, problems, _ = _classes(options.objects)
    if not classes:
        raise ValueError(
            f'{options.objects} has no objects; expected '
            "instances_*.json of COCO, with the tables 'annotations' and "
            "'categories'."
        )
    return classes, problems


def _classes(
    path: Path,
) -> tuple[_Images, dict[str, list[str]], list[Item], dict[str, Any]]:
    """Table of images, classes by id, problems, and ids as they are given."""
    table = _Images()
    category_names: dict[str, str] = {}
    found: dict[str, dict[str, None]] = {}
    given: dict[str, Any] = {}
    annotations_of: dict[str, array] = {}
    problems = []
    for entry in stream_json(path):
        value = entry.value
        if entry.key == 'images':
            table.add(value)
        elif entry.key == 'categories' and isinstance(value, dict):
            category = id_key_or_none(value.get('id'))
            name = value.get('name')
            if category is not None and isinstance(name, str):
                category_names[category] = name
        elif isinstance(value, InvalidJson):
            problems.append(Item(path, entry.number, None, value.reason))
        elif entry.key == 'annotations' and isinstance(value, dict):
            image_id = id_key_or_none(value.get('image_id'))
            category = id_key_or_none(value.get('category_id'))
            if image_id is None or category is None:
                reason = 'has no image_id or no category_id'
                problems.append(Item(path, entry.number, None, reason))
                continue
            given.setdefault(image_id, checked_id(value['image_id']))
            found.setdefault(image_id, {})[category] = None
            annotations_of.setdefault(category, array('q')).append(
                entry.number
            )
    # known at the end: the table of categories may follow the annotations
    for category in annotations_of.keys() - category_names.keys():
        reason = (
            f'has the category_id {category}, which has no name in the '
            'table "categories"'
        )
        for number in annotations_of[category]:
            problems.append(Item(path, number, None, reason))
    classes = {}
    for image_id, categories in found.items():
        names = [category_names[c] for c in categories if c in category_names]
        if names:
            classes[image_id] = sorted(names)
    problems.sort(key=lambda item: item.number)
    return table, classes, problems, given
