# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The official files of a data set for training, without an import."""

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mmengine.logging import print_log
from torch.utils.data import Dataset

from ..datasets.parse_records import read_record
from ..datasets.record_layouts import RecordError
from ..datasets.skipped_samples import MAX_LOGGED, SkippingPipeline, log_line
from ..prompts import Turn
from ..registry import DATASETS
from .formats import find_format
from .image_places import ImagePlaces
from .import_items import Item, ReadOptions

_CHECKED_IMAGES = 1000


@DATASETS.register_module()
class OfficialDataset(Dataset):
    """Reads any format of ``minigpt4 data import`` whose images are files.

    The records are those that an import would write, in the order of the
    files, and their images are found as an import finds them. Only images,
    questions and answers are kept in memory. A record that cannot be used is
    logged (the first 20, and their number) and omitted; an image that
    cannot be read is skipped in the run.

    Args:
        source: The file or folder, such as
            ``v2_mscoco_train2014_annotations.json``.
        images: The folder of the images; None for that of the source and the
            usual folders next to it.
        format: Name of the format; None to recognise it.
        questions: The file of the questions of VQAv2 and OK-VQA; None for
            the one next to the annotations.
        pipeline: Transforms.
        limit: Number of records to use, from the first; None for all.

    Attributes:
        records: For each record its id, the names of its images and its
            turns.

    Raises:
        FileNotFoundError: The source does not exist.
        ValueError: It has no known format, no record can be used, or none of
            the first images exists.
    """

    metainfo: dict = {}

    def __init__(
        self,
        source: str,
        images: str | None = None,
        format: str | None = None,
        questions: str | None = None,
        pipeline: Sequence[dict] = (),
        limit: int | None = None,
    ) -> None:
        if not (limit is None or (type(limit) is int and limit > 0)):
            raise ValueError(
                f'limit is {limit!r}; expected a number of records of at '
                'least 1, or None for all.'
            )
        path = Path(source).expanduser()
        folder = None if images is None else Path(images).expanduser()
        if folder is not None and not folder.is_dir():
            raise FileNotFoundError(
                f'{folder} is no folder; expected the folder of the images '
                f'of {path}.'
            )
        found, path = find_format(path, format)
        print_log(f'reading {path} ({found.content})', logger='current')
        self.pipeline = SkippingPipeline(pipeline)
        self._places = ImagePlaces(path, folder)
        self.records: list[tuple[Any, list[str], list[Turn]]] = []
        errors = 0
        options = ReadOptions(
            questions=None if questions is None else Path(questions)
        )
        reason = 'it has none'
        for item in found.read(path, options):
            problem = self._add(item)
            if problem:
                errors += 1
                reason = log_line(f'{item.place} {problem}')
                if errors <= MAX_LOGGED:
                    _warn(f'omitted: {reason}.')
            if len(self.records) == limit:
                break
        if not self.records:
            raise ValueError(f'no record of {path} can be used: {reason}.')
        if errors:
            _warn(f'{errors} records of {path} cannot be used.')
        self._check_images(path)

    def _add(self, item: Item) -> str:
        """Add the record of an item; return why it cannot be used, or ''."""
        if item.record is None:
            return item.problem
        if item.image is not None:
            return (
                'contains its image; expected the file of an image. Import '
                'such data with "minigpt4 data import"'
            )
        try:
            content = read_record(item.record, item.number).content
        except RecordError as error:
            return str(error)
        self.records.append(
            (content['id'], content['images'], content['turns'])
        )
        return ''

    def _check_images(self, path: Path) -> None:
        """Refuse data of whose first images none exists.

        Raises:
            ValueError: None exists.
        """
        names = self._image_names()[:_CHECKED_IMAGES]
        if names and not any(self._find(name) for name in names):
            folders = ', '.join(str(f) for f in self._places.folders)
            raise ValueError(
                f'none of the first {len(names)} images of {path} exists, '
                f'e.g. {names[0]}; searched in {folders}. Set images to '
                'their folder.'
            )

    def _find(self, name: str) -> str | None:
        try:
            return self._places.find(name)
        except ValueError:  # several files have the last part of the name
            return None

    def _path(self, name: str) -> str:
        """The file of an image; where it was expected if there is none."""
        return self._find(name) or os.path.join(self._places.folders[0], name)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: 'int | tuple[int, int]') -> Any:
        """Return a sample; None if it is skipped.

        Args:
            key: Index of the record, or that and the index of the sample in
                the run.
        """
        index, sample_index = key if isinstance(key, tuple) else (key, key)
        record_id, images, turns = self.records[index]
        return self.pipeline.run(
            f'record {str(record_id)[:60]}',
            lambda: dict(
                id=record_id,
                sample_index=sample_index,
                images=[self._path(name) for name in images],
                turns=list(turns),
            ),
        )

    @property
    def num_skipped(self) -> int:
        """Samples that all data workers of this rank have skipped."""
        return self.pipeline.num_skipped

    @property
    def error_counts(self) -> dict[str, int]:
        """Skipped samples by reason, of all data workers of this rank."""
        return self.pipeline.totals()

    @property
    def num_images(self) -> int:
        """Number of different images in all records."""
        return len(self._image_names())

    def _image_names(self) -> list[str]:
        names = (name for _, images, _ in self.records for name in images)
        return list(dict.fromkeys(names))

    def image_sources(
        self, start: int = 0, step: int = 1
    ) -> Iterator[tuple[str, str]]:
        """Yield name and file of every ``step``-th image.

        Args:
            start: Number of the first image.
            step: Distance of the images.
        """
        for name in self._image_names()[start::step]:
            yield name, self._path(name)


def _warn(text: str) -> None:
    print_log(text, logger='current', level=logging.WARNING)
