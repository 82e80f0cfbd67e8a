# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Preference pairs: images with a better and a worse answer, from JSON."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..registry import DATASETS
from .instruction import InstructionDataset
from .parse_pairs import read_pair
from .parse_records import Record


@DATASETS.register_module()
class PreferenceDataset(InstructionDataset):
    """Reads pairs of answers as ``minigpt4 curate export`` writes them.

    The file has a record in each line, in any form of
    :func:`~minigpt4.datasets.parse_pairs.read_pair`. Invalid records are
    treated as by :class:`InstructionDataset`. The chosen answer is that of
    the last turn, the rejected one the text ``rejected``, which
    ``PackSample(keys=('rejected',))`` packs.

    Args:
        ann_file: The file, below ``data_root`` unless absolute.
        data_root: Folder of the data.
        image_folder: Folder of the images, below ``data_root``; the names in
            an export begin with ``image/``.
        pipeline: Transforms.
        limit: Number of records to use, from the first; None for all.
        max_bad: Largest fraction of invalid records, 0 to 1.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: As by :class:`InstructionDataset`.
    """

    def __init__(
        self,
        ann_file: str = 'preference.jsonl',
        data_root: str = '',
        image_folder: str = '',
        pipeline: Sequence[dict] = (),
        limit: int | None = None,
        max_bad: float = 1.0,
    ) -> None:
        super().__init__(
            ann_file=ann_file,
            data_root=data_root,
            image_folder=image_folder,
            pipeline=pipeline,
            limit=limit,
            max_bad=max_bad,
        )

    def read(
        self, item: Any, number: int, file_names: Mapping[str, Any] | None
    ) -> Record:
        """Check and convert a record.

        Raises:
            RecordError: It is invalid.
        """
        return read_pair(item, number, file_names)
