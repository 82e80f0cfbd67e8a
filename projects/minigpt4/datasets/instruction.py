# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Stage 2: images with conversations, from a JSON file."""

import logging
import os
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

from mmengine.dataset import Compose
from mmengine.logging import print_log
from torch.utils.data import Dataset

from ..images.read import SampleError
from ..registry import DATASETS
from ..utils.fault_log import NAMED, RECORD, SkippedSamples, log_line
from .image_files import ImageFolder
from .record_files import read_record_file
from .record_layouts import RecordError
from .records import read_record


@DATASETS.register_module()
class InstructionDataset(Dataset):
    """Reads conversations about images in any of these layouts.

    - ``cc_sbu_align`` (official): ``{"annotations": [{"image_id": "52",
      "caption": "..."}]}`` or the bare list; no question stands in it.
      COCO's ``captions_*.json`` is the same with a table of file names.
    - MMPretrain: ``[{"id": "52", "conversation": "###Ask: <Img><ImageHere>
      </Img> ... ###Answer: ..."}]``.
    - LLaVA: ``[{"image": "52.jpg", "conversations": [{"from": "human",
      "value": "<image>\\n..."}, {"from": "gpt", "value": "..."}]}]``, with
      several turns, a list of images, or none; also with ``role`` and
      ``content``, and under ``messages``.
    - flat: ``[{"image": ..., "question": ..., "answer": ...}]``; other keys
      stay in the record (for metrics).

    A file is JSON or JSON lines. A record that cannot be used is named in the
    log with its field and the reason when the file is read (the first 20;
    then their number), and is None whenever it is drawn, so that a run goes
    on without it and counts it as skipped. A file without one usable record,
    or with more than ``max_bad``, is refused.

    Args:
        ann_file: The JSON file, below ``data_root`` unless absolute.
        data_root: Folder of the data. A whole number is taken for its name.
        image_folder: Folder of the images, below ``data_root``.
        pipeline: Transforms.
        limit: Use the first so many records only, at least 1.
        keep_answers: Whether answers stay in the turns (training); else they
            move to the record's ``answer`` (evaluation).
        max_bad: The largest share of records that may be unusable.

    Attributes:
        records: The records in their order; None for one that is unusable.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: It is not a regular file or not JSON, holds no record or
            too many that cannot be used, or an argument is not valid.
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
        self.pipeline = Compose(pipeline)
        self._skipped = SkippedSamples()
        self._images = ImageFolder(self.image_folder)
        items, file_names = read_record_file(path)
        self.records: list[dict | None] = []
        errors: list[str] = []
        dropped = 0
        for number, item in enumerate(items[:limit]):
            try:
                record = read_record(item, number, file_names, keep_answers)
            except RecordError as error:
                self.records.append(None)
                errors.append(_describe(number, path, item, error))
            else:
                self.records.append(record.content)
                dropped += record.dropped_turn
        self._report(path, errors, dropped, max_bad)

    def _report(
        self, path: Path, errors: list[str], dropped: int, max_bad: float
    ) -> None:
        """Name the records that are left out; refuse the file for too many."""
        number = len(self.records)
        if len(errors) == number or len(errors) > max_bad * number:
            raise ValueError(
                f'{len(errors)} of {number} records of {path} cannot be used: '
                f'{"; ".join(errors[:3])}'
                f'{"; and so on" if len(errors) > 3 else ""}.'
            )

        def warn(text: str) -> None:
            print_log(text, logger='current', level=logging.WARNING)

        for error in errors[:NAMED]:
            warn(f'left out: {error}.')
        if errors:
            warn(
                f'{len(errors)} of {number} records of {path} are left out'
                + (f', {NAMED} are named above.' if errors[NAMED:] else '.')
            )
        if dropped:
            warn(
                f'{dropped} conversations of {path} do not begin with the '
                'human; their first turn is dropped.'
            )

    @property
    def bad(self) -> int:
        """Samples that were left out so far, by all data workers."""
        return len(self._skipped)

    @property
    def faults(self) -> dict[str, int]:
        """Skipped samples by reason, of all data workers of this rank."""
        return self._skipped.totals()

    @property
    def num_images(self) -> int:
        """Different images of all records."""
        return len(self._image_names())

    def _image_names(self) -> list[str]:
        images = (record['images'] for record in self.records if record)
        return list(dict.fromkeys(chain.from_iterable(images)))

    def image_sources(
        self, share: int = 0, shares: int = 1
    ) -> Iterator[tuple[str, str]]:
        """Name and file of every ``shares``-th image, from ``share`` on."""
        for name in self._image_names()[share::shares]:
            yield name, self._images.find(name)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: 'int | tuple[int, int]'):
        """A sample; None where it cannot be used (it is named and counted).

        Args:
            key: Index, or index and place in the stream of training samples.
        """
        index, draw = key if isinstance(key, tuple) else (key, key)
        content = self.records[index]
        if content is None:  # named when the file was read
            self._skipped.add(RECORD)
            return None
        record = dict(content, draw=draw)
        record['images'] = [self._images.find(i) for i in record['images']]
        try:
            return self.pipeline(record)
        except SampleError as error:
            name = str(record['id'])[:60]
            self._skipped.add(error.reason, f'record {name}: {error}')
            return None


def _path(name: str, value: object) -> Path:
    """An argument as a path; a folder may be called 2024."""
    if type(value) is int:
        value = str(value)
    if not isinstance(value, (str, os.PathLike)):
        kind = type(value).__name__
        raise ValueError(
            f'{name} is {value!r:.200} ({kind}); expected one path. The '
            'records of several files have to be joined in one.'
            if name == 'ann_file'
            else f'{name} is {value!r:.200} ({kind}); expected one path.'
        )
    return Path(value)


def _describe(
    number: int, path: Path, item: object, error: RecordError
) -> str:
    """A record that cannot be used, by its number and id, and the reason."""
    name = ''
    if isinstance(item, dict):
        ids = (item.get('id'), item.get('image_id'))
        named = next((i for i in ids if isinstance(i, (int, str))), None)
        name = '' if named is None else f' (id {str(named)[:60]})'
    return log_line(f'record {number} of {path.name}{name}: {error}')
