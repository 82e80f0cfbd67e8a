# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Stage 2: images with conversations, from a JSON file."""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from mmengine.logging import print_log
from torch.utils.data import Dataset

from ..prompts import Turn
from ..registry import DATASETS
from ..utils.sample_errors import RECORD
from .caption_groups import drawn_caption, group_captions
from .image_folder import ImageFolder
from .parse_records import Record, read_record
from .record_files import read_record_file
from .record_layouts import RecordError
from .skipped_samples import MAX_LOGGED, SkippingPipeline, log_line


@DATASETS.register_module()
class InstructionDataset(Dataset):
    """Reads conversations about images in any of these layouts.

    - ``cc_sbu_align`` (official): ``{"annotations": [{"image_id": "52",
      "caption": "..."}]}`` or only the list; it has no questions. COCO's
      ``captions_*.json`` is the same with a table of file names.
    - MMPretrain: ``[{"id": "52", "conversation": "###Ask: <Img><ImageHere>
      </Img> ... ###Answer: ..."}]``.
    - LLaVA: ``[{"image": "52.jpg", "conversations": [{"from": "human",
      "value": "<image>\\n..."}, {"from": "gpt", "value": "..."}]}]``, with
      several turns, a list of images, or none; also with ``role`` and
      ``content``, and under ``messages``.
    - flat: ``[{"image": ..., "question": ..., "answer": ...}]``; other keys
      remain in the record, for metrics.

    A file is JSON or JSON lines, or a table or folder of
    :mod:`~minigpt4.datasets.caption_files`. Invalid records are logged with
    the field and the reason when the file is read (the first 20, and their
    number).
    The sample of an invalid record is None and is counted as skipped. A file
    without a valid record, or with more invalid ones than ``max_bad``, is
    refused.

    Args:
        ann_file: The file or folder, below ``data_root`` unless absolute.
        data_root: Folder of the data; an integer is used as its name.
        image_folder: Folder of the images, below ``data_root``.
        pipeline: Transforms.
        limit: Number of records to use, from the first, at least 1; None for
            all. With ``draw_caption`` it is a number of images.
        keep_answers: Whether answers remain in the turns (training); else
            they move to the record's ``answer`` (evaluation).
        max_bad: Largest fraction of invalid records, 0 to 1.
        draw_caption: Whether all captions of an image (records without a
            question) are one record. Each pass over the data uses another of
            them, in a seeded order; after as many passes as there are
            captions, each one was used.
        seed: Seed of the captions' order.

    Attributes:
        records: The records in their order; None for an invalid one.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is not a regular file or not JSON, contains no
            record or too many invalid ones, or an argument is invalid.
    """

    metainfo: dict = {}

    def __init__(
        self,
        ann_file: str,
        data_root: str = '',
        image_folder: str = 'image',
        pipeline: Sequence[dict] = (),
        limit: int | None = None,
        keep_answers: bool = True,
        max_bad: float = 1.0,
        draw_caption: bool = False,
        seed: int = 0,
    ) -> None:
        root = _path('data_root', data_root)
        path = root / _path('ann_file', ann_file)
        if not (limit is None or (type(limit) is int and limit > 0)):
            raise ValueError(
                f'limit is {limit!r}; expected a number of records of at '
                'least 1, or None for all.'
            )
        self.image_folder = root / _path('image_folder', image_folder)
        self.keep_answers = keep_answers
        self.pipeline = SkippingPipeline(pipeline)
        self._images = ImageFolder(self.image_folder)
        items, file_names = read_record_file(path)
        self.records: list[dict | None] = []
        errors: list[str] = []
        num_dropped = 0
        # captions are joined to records before these are counted
        for number, item in enumerate(
            items[: None if draw_caption else limit]
        ):
            try:
                record = self.read(item, number, file_names)
            except RecordError as error:
                self.records.append(None)
                errors.append(_describe(number, path, item, error))
            else:
                self.records.append(record.content)
                num_dropped += record.dropped_turn
        self._report(path, errors, num_dropped, max_bad)
        self.seed = seed
        if draw_caption:
            self.records = group_captions(self.records)[:limit]

    def read(
        self, item: Any, number: int, file_names: Mapping[str, Any] | None
    ) -> Record:
        """Check and convert a record.

        Raises:
            RecordError: It is invalid.
        """
        return read_record(item, number, file_names, self.keep_answers)

    def _report(
        self, path: Path, errors: list[str], num_dropped: int, max_bad: float
    ) -> None:
        """Log the invalid records; refuse a file with too many."""
        total = len(self.records)
        if len(errors) == total or len(errors) > max_bad * total:
            raise ValueError(
                f'{len(errors)} of {total} records of {path} cannot be used: '
                f'{"; ".join(errors[:3])}'
                f'{"; and so on" if len(errors) > 3 else ""}.'
            )

        def warn(text: str) -> None:
            print_log(text, logger='current', level=logging.WARNING)

        for error in errors[:MAX_LOGGED]:
            warn(f'skipped {error}.')
        if errors:
            warn(
                f'{len(errors)} of {total} records of {path} are skipped'
                + (
                    f', {MAX_LOGGED} are listed above.'
                    if errors[MAX_LOGGED:]
                    else '.'
                )
            )
        if num_dropped:
            warn(
                f'{num_dropped} conversations of {path} do not begin with '
                'the human; their first turn is dropped.'
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
        images = (record['images'] for record in self.records if record)
        return list(dict.fromkeys(chain.from_iterable(images)))

    def image_sources(
        self, start: int = 0, step: int = 1
    ) -> Iterator[tuple[str, str]]:
        """Yield name and file of every ``step``-th image.

        Args:
            start: Number of the first image.
            step: Distance of the images.
        """
        for name in self._image_names()[start::step]:
            yield name, self._images.find(name)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: 'int | tuple[int, int]') -> Any:
        """Return a sample; None if it is skipped.

        Args:
            key: Index of the record, or that and the index of the sample in
                the run, as
                :class:`~minigpt4.datasets.samplers.EndlessSampler` yields.
        """
        index, sample_index = key if isinstance(key, tuple) else (key, key)
        content = self.records[index]
        if content is None:
            self.pipeline.skip(RECORD)  # logged when the file was read
            return None
        if 'captions' in content:
            captions = content['captions']
            number = drawn_caption(
                sample_index // len(self),
                len(captions),
                f'{self.seed}-{content["id"]}',
            )
            content = {k: v for k, v in content.items() if k != 'captions'}
            if self.keep_answers:
                content['turns'] = [Turn('', captions[number])]
            else:
                content['answer'] = captions[number]
        images = [self._images.find(name) for name in content['images']]
        return self.pipeline.run(
            f'record {str(content["id"])[:60]}',
            lambda: dict(content, sample_index=sample_index, images=images),
        )


def _path(name: str, value: object) -> Path:
    """Convert an argument to a path; a folder may be named 2024."""
    if type(value) is int:
        value = str(value)
    if not isinstance(value, (str, os.PathLike)):
        kind = type(value).__name__
        raise ValueError(
            f'{name} is {value!r:.200} ({kind}); expected one path. Join '
            'the records of several files in one file.'
            if name == 'ann_file'
            else f'{name} is {value!r:.200} ({kind}); expected one path.'
        )
    return Path(value)


def _describe(
    number: int, path: Path, item: object, error: RecordError
) -> str:
    """Return number, id and error of an invalid record."""
    id_text = ''
    if isinstance(item, dict):
        ids = (item.get('id'), item.get('image_id'))
        record_id = next((i for i in ids if isinstance(i, (int, str))), None)
        id_text = '' if record_id is None else f' (id {str(record_id)[:60]})'
    return log_line(f'record {number} of {path.name}{id_text}: {error}')
