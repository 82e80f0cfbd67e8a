# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Add images to a ledger, with their digests and what is known about them."""

import hashlib
import os
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from ..captioning.batch import check_image_file
from ..captioning.image_lists import ImageEntry
from ..images.image_ids import ImageIds
from ..images.read import read_file, read_image
from ..utils.errors import one_line
from .ledger import Ledger
from .near_duplicates import HASH_BITS, image_hash

_STORED = 256  # images in one transaction


@dataclass(frozen=True)
class ImageNotes:
    """What is known about images.

    Attributes:
        source: Where they come from, for the datasheet; '' if unknown.
        licence: Their licence; '' if unknown.
        captions: Captions that people wrote, by the image's id
            (:mod:`minigpt4.images.image_ids`).
        objects: COCO classes in an image, by its id; see
            :func:`~minigpt4.evaluation.chair_run.read_truth`.
    """

    source: str = ''
    licence: str = ''
    captions: Mapping[str, list[str]] = field(default_factory=dict)
    objects: Mapping[str, list[str]] = field(default_factory=dict)

    @cached_property
    def _ids(self) -> tuple[ImageIds, ImageIds]:
        return ImageIds(self.captions), ImageIds(self.objects)

    def of(self, path: str) -> dict[str, Any]:
        """The notes on an image; what is unknown is omitted."""
        captions, objects = (ids.find(path) for ids in self._ids)
        found = dict(
            source=self.source,
            licence=self.licence,
            captions=None if captions is None else self.captions[captions],
            objects=None if objects is None else self.objects[objects],
        )
        return {
            name: value
            for name, value in found.items()
            if value not in ('', None)
        }


class AddedImages(NamedTuple):
    """What :func:`add_images` did.

    Attributes:
        new: Images that the ledger did not have.
        known: Images that it had; their path and the given notes are replaced.
        copies: Files with the content of an earlier file of the list.
        unreadable: Path and reason of each file that is no readable image.
    """

    new: int
    known: int
    copies: int
    unreadable: list[tuple[str, str]]


class _ReadImage(NamedTuple):
    digest: str
    details: dict[str, Any]


def sample_images(
    entries: Sequence[ImageEntry], limit: int | None, seed: int
) -> list[ImageEntry]:
    """Choose images at random, as the paper chose 5,000; their order stays.

    Args:
        entries: The images.
        limit: How many; None is all.
        seed: The same seed chooses the same images of the same list.
    """
    if limit is None or limit >= len(entries):
        return [*entries]
    chosen = random.Random(seed).sample(range(len(entries)), limit)
    return [entries[index] for index in sorted(chosen)]


def add_images(
    ledger: Ledger,
    entries: Sequence[ImageEntry],
    notes: ImageNotes | None = None,
    workers: int = 4,
    report: Callable[[int], None] = lambda number: None,
) -> AddedImages:
    """Read images in threads and add them to a ledger, in their order.

    What was added before an interruption is kept, and the same call gives
    the same numbers.

    Args:
        ledger: The ledger.
        entries: The images.
        notes: What is known about them.
        workers: Threads that read.
        report: Called with the number of files that were read.
    """
    notes = notes or ImageNotes()
    seen: set[str] = set()
    unreadable: list[tuple[str, str]] = []
    copies = new = 0
    rows: list[tuple[str, str, dict[str, Any]]] = []
    for entry, read in _read(entries, workers):
        report(1)
        if isinstance(read, str):
            unreadable.append((entry.image, read))
            continue
        if read.digest in seen:
            copies += 1
            continue
        seen.add(read.digest)
        path = os.path.abspath(entry.image)
        rows.append((read.digest, path, {**read.details, **notes.of(path)}))
        if len(rows) == _STORED:
            new += ledger.add_images(rows)
            rows.clear()
    new += ledger.add_images(rows)
    return AddedImages(new, len(seen) - new, copies, unreadable)


def _read(
    entries: Iterable[ImageEntry], workers: int
) -> Iterator[tuple[ImageEntry, '_ReadImage | str']]:
    """Yield the images in their order, each read or with the reason."""
    pending: deque[tuple[ImageEntry, Future]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for entry in entries:
                pending.append((entry, pool.submit(_read_one, entry)))
                if len(pending) > 4 * workers:
                    done, future = pending.popleft()
                    yield done, future.result()
            while pending:
                done, future = pending.popleft()
                yield done, future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _read_one(entry: ImageEntry) -> '_ReadImage | str':
    if entry.error is not None:
        return entry.error
    try:
        check_image_file(entry.image)
        data = read_file(entry.image)
        image = read_image(data, entry.image)
    except (OSError, ValueError) as error:
        return one_line(error)
    return _ReadImage(
        hashlib.sha256(data).hexdigest(),
        dict(
            width=image.width,
            height=image.height,
            phash=f'{image_hash(image):0{HASH_BITS // 4}x}',
        ),
    )
