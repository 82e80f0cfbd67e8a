# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Check the records of a source and store them in a temporary file.

What stays in memory is small: of each record some numbers, of each image its
name. So a million records need a few hundred MB, and they can be divided and
shuffled.
"""

import hashlib
import json
import os
import re
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ..datasets.parse_records import read_record
from ..datasets.record_layouts import RecordError
from ..prompts import IMAGE_HERE, Turn
from ..utils.errors import printable
from .caption_prompts import asks_for_caption
from .image_bytes import content_problem
from .image_places import ImagePlaces
from .import_items import Item
from .skipped_items import IMAGE, RECORD, TEXT, UNREADABLE, SkippedItems

_URL = re.compile(r'https?://\S+\Z', re.I)
_NONE, _SEVERAL = -1, -2
# keys of a record that would decide on another layout or image
_LAYOUT_KEYS = (
    *('image', 'images', 'caption', 'question', 'answer', 'conversation'),
    *('conversations', 'messages'),
)


class Image(NamedTuple):
    """An image of the imported records.

    Attributes:
        name: Its absolute path or URL; the name of an embedded one.
        offset: Place of an embedded image in the file of images; -1 for a
            path or a URL.
        size: Bytes of an embedded image.
    """

    name: str
    offset: int = -1
    size: int = 0

    @property
    def is_url(self) -> bool:
        """Whether it is a URL, and was not fetched yet."""
        return self.offset < 0 and bool(_URL.match(self.name))


class Spool:
    """The valid records of a source.

    Args:
        folder: The folder of the temporary files.
        places: Finds the images.
        skipped: Reports what is not imported.
        captions_only: Whether records without a caption are skipped, for
            stage 1.

    Attributes:
        images: The images, each one time.
    """

    def __init__(
        self,
        folder: Path,
        places: ImagePlaces,
        skipped: SkippedItems,
        captions_only: bool = False,
    ) -> None:
        self._records = open(folder / 'records', 'wb+')  # noqa: SIM115
        self._blobs = open(folder / 'images', 'wb+')  # noqa: SIM115
        self._places = places
        self._skipped = skipped
        self._captions_only = captions_only
        self.images: list[Image] = []
        self._index: dict[str, int] = {}
        self._no_images: dict[str, str] = {}
        self._offsets = array('q')
        self._image_of = array('i')
        self._several: dict[int, list[int]] = {}
        self._files: list[tuple[Path, str]] = []
        self._last_file: Path | None = None
        self._file_of, self._number_of = array('i'), array('q')
        self._end = 0
        self._ids: set[Any] = set()
        self.num_same_ids = 0

    def __len__(self) -> int:
        return len(self._offsets)

    def close(self) -> None:
        """Close the temporary files."""
        self._records.close()
        self._blobs.close()

    def add_all(self, items: Iterable[Item], limit: int | None = None) -> None:
        """Check and store records.

        Args:
            items: The records.
            limit: Number of valid records after which no more are read.
        """
        for item in items:
            self._add(item)
            if limit is not None and len(self) >= limit:
                break
        self._records.flush()
        self._blobs.flush()
        self._ids.clear()  # of a million records 100 MB
        self._index.clear()

    def _add(self, item: Item) -> None:
        if item.record is None:
            self._skipped.add(item, RECORD, item.problem)
            return
        raw, urls = _take_urls(item.record)
        try:
            content = read_record(raw, item.number).content
            _refuse_slots_without_image(content)
            if self._captions_only and (reason := _no_caption(content)):
                self._skipped.add(item, TEXT, reason)
                return
            has_id = raw.get('id') is not None
            body = self._body(content, has_id)
        except RecordError as error:
            self._skipped.add(item, RECORD, str(error))
            return
        images = []
        for name in content['images']:
            if item.image is not None:
                images.append(self._embedded(name, item.image))
                continue
            try:
                found = urls.get(name) or self._places.find(name)
            except ValueError as error:  # several files
                self._skipped.add(item, IMAGE, str(error))
                return
            if found is None:
                folders = self._places.folders
                self._skipped.add(
                    item,
                    IMAGE,
                    f'has the image {printable(name)!r}, which is not in '
                    f'{folders[0]}'
                    + (f' and {len(folders) - 1} more' if folders[1:] else '')
                    + '; name the folder of the images with --images',
                )
                return
            if name not in urls and (reason := self._no_image(found)):
                self._skipped.add(item, UNREADABLE, reason)
                return
            images.append(self._image(Image(found)))
        self._store(item, images, body)

    def _no_image(self, path: str) -> str:
        """Why a file is no image by its first bytes; '' if it may be one.

        Shards need no such check: their images are decoded.
        """
        if self._captions_only or path in self._index:
            return ''
        if path not in self._no_images:
            reason = content_problem(path)
            if not reason:
                return ''
            self._no_images[path] = f'has an image that {reason}'
        return self._no_images[path]

    def conflicts(self) -> dict[int, tuple[str, str]]:
        """Kind and reason for each image that may be the wrong one."""
        reasons = self._places.conflicts()
        return {
            i: (IMAGE, reasons[image.name])
            for i, image in enumerate(self.images)
            if image.offset < 0 and image.name in reasons
        }

    def _image(self, image: Image) -> int:
        index = self._index.setdefault(image.name, len(self.images))
        if index == len(self.images):
            self.images.append(image)
        return index

    def _embedded(self, name: str, data: bytes) -> int:
        """Store an encoded image; equal ones are one image."""
        key = f'sha256:{hashlib.sha256(data).hexdigest()}'
        if key not in self._index:
            self._index[key] = len(self.images)
            offset = self._blobs.seek(0, os.SEEK_END)
            self._blobs.write(data)
            self.images.append(Image(name, offset, len(data)))
        return self._index[key]

    def _body(self, content: dict, has_id: bool) -> bytes:
        """The JSON of a record without its images."""
        turns: list[Turn] = content['turns']
        record_id = content['id']
        if record_id in self._ids:
            self.num_same_ids += has_id  # else it is the number of a line
            record_id = self._other_id(record_id)
        self._ids.add(record_id)
        record = {k: v for k, v in content.items() if k not in ('turns', 'id')}
        for key in _LAYOUT_KEYS:
            record.pop(key, None)
        record = {'id': record_id, **_layout(turns), **record}
        try:
            text = json.dumps(record, ensure_ascii=False, allow_nan=False)
            return text[1:].encode()
        except ValueError:  # NaN, or half a character, in another field
            text = json.dumps(_finite(record))
            return text[1:].encode()

    def _other_id(self, record_id: Any) -> str:
        number = 2
        while f'{record_id}-{number}' in self._ids:
            number += 1
        return f'{record_id}-{number}'

    def _store(self, item: Item, images: list[int], body: bytes) -> None:
        number = len(self)
        if len(images) == 1:
            self._image_of.append(images[0])
        elif images:
            self._image_of.append(_SEVERAL)
            self._several[number] = images
        else:
            self._image_of.append(_NONE)
        self._offsets.append(self._end)
        self._end += self._records.write(body + b'\n')
        # most readers pass the same object for all records of a file
        if item.file is not self._last_file:
            self._last_file = item.file
            self._files.append((item.file, item.unit))
        self._file_of.append(len(self._files) - 1)
        self._number_of.append(item.number)

    def images_of(self, number: int) -> list[int]:
        """The images of a record, as indices in ``images``."""
        image = self._image_of[number]
        if image == _NONE:
            return []
        return self._several[number] if image == _SEVERAL else [image]

    def several(self) -> Iterator[list[int]]:
        """Yield the images of the records that have several."""
        yield from self._several.values()

    def item(self, number: int) -> Item:
        """The place of a record."""
        file, unit = self._files[self._file_of[number]]
        return Item(file, self._number_of[number], unit=unit)

    def body(self, number: int) -> bytes:
        """The JSON of a record after its first brace, without images."""
        self._records.seek(self._offsets[number])
        return self._records.readline()[:-1]

    def bodies(self) -> Iterator[bytes]:
        """Yield the JSON of all records in their order."""
        self._records.seek(0)
        for line in self._records:
            yield line[:-1]

    def image_bytes(self, image: Image) -> bytes:
        """The bytes of an embedded image."""
        self._blobs.seek(image.offset)
        return self._blobs.read(image.size)


def _refuse_slots_without_image(content: dict) -> None:
    """Refuse a record that names no image for an image slot.

    Raises:
        RecordError: It would be trained without its image.
    """
    if not content['images'] and any(
        '<image>' in turn.question or IMAGE_HERE in turn.question
        for turn in content['turns']
    ):
        raise RecordError(
            'has <image> in a question and no image; expected the name of '
            'the image under the key image'
        )


def _no_caption(content: dict) -> str:
    """Why a record is no caption of an image; '' if it is one."""
    turns: list[Turn] = content['turns']
    if len(content['images']) != 1:
        return f'has {len(content["images"])} images; stage 1 expects one'
    if len(turns) > 1:
        return f'has {len(turns)} questions; stage 1 expects a caption'
    if not asks_for_caption(turns[0].question):
        question = printable(turns[0].question)[:80]
        return (
            f'answers the question {question!r}; stage 1 expects a caption, '
            'or a question that only asks for a description'
        )
    return ''


def _take_urls(record: dict) -> tuple[dict, dict[str, str]]:
    """Replace URLs of images by names, which the check of a record accepts.

    Returns:
        The record, and the URL of each of these names.
    """
    for key in ('image', 'images'):
        value = record.get(key)
        names = value if isinstance(value, list) else [value]
        if not any(isinstance(n, str) and _URL.match(n) for n in names):
            continue
        urls = {}
        replaced = []
        for number, name in enumerate(names):
            if isinstance(name, str) and _URL.match(name):
                urls[f'url {number}'] = name
                name = f'url {number}'
            replaced.append(name)
        return {**record, key: replaced}, urls
    return record, {}


def _layout(turns: list[Turn]) -> dict:
    """The texts of a record in the simplest layout of stage 2."""
    if len(turns) == 1 and not turns[0].question:
        return dict(caption=turns[0].answer)
    if len(turns) == 1:
        return dict(question=_llava(turns[0]), answer=turns[0].answer)
    messages = []
    for turn in turns:
        messages += [
            {'from': 'human', 'value': _llava(turn)},
            {'from': 'gpt', 'value': turn.answer},
        ]
    return dict(conversations=messages)


def _llava(turn: Turn) -> str:
    return turn.question.replace(IMAGE_HERE, '<image>')


def _finite(value: Any) -> Any:
    """Replace NaN and infinity by null: other programs refuse them."""
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return value
