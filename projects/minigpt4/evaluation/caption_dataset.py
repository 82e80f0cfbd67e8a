# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Images to caption and to score, as a data set of ``tools/test.py``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from ..datasets.skipped_samples import SkippingPipeline
from ..prompts import Turn
from ..registry import DATASETS
from ..utils.errors import printable
from .caption_protocols import read_caption_protocol
from .caption_source import described_images


@DATASETS.register_module()
class CaptionDataset(Dataset):
    """Images of a folder that a protocol can score captions of.

    A sample has ``images``, ``turns``, ``id``, and ``image_id`` for
    :class:`~.metrics.CaptionMetric`.

    Args:
        protocol: ``'chair'`` or ``'captions'``.
        annotations: The file that describes the images: the classes in each
            (``chair``), or the reference captions (``captions``).
        images: The folder of the images; other images in it are not used.
        prompt: The prompt; '' for the model's own.
        limit: Use the first images by name; None for all.
        pipeline: The steps, with ``LoadImages`` and
            ``PackSample(keys='image_id')``.

    Raises:
        FileNotFoundError: The file or the folder does not exist.
        ValueError: An argument is invalid, or no image is described.
    """

    metainfo: dict = {}

    def __init__(
        self,
        protocol: str,
        annotations: str,
        images: str,
        prompt: str = '',
        limit: int | None = None,
        pipeline: Sequence[dict] = (),
    ) -> None:
        source = Path(annotations)
        find = read_caption_protocol(protocol, source).find
        files = described_images(Path(images), find, source)
        self.images = [(find(file), file) for file in files[:limit]]
        self.prompt = prompt
        self.pipeline = SkippingPipeline(pipeline)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        """The sample of an image; None if it cannot be read."""
        id_, file = self.images[index]
        record = dict(
            id=id_, image_id=id_, images=[file], turns=[Turn(self.prompt)]
        )
        return self.pipeline.run(
            f'image {printable(str(id_))[:60]}', lambda: record
        )

    @property
    def num_skipped(self) -> int:
        """Samples that all data workers of this rank have skipped."""
        return self.pipeline.num_skipped

    @property
    def error_counts(self) -> dict[str, int]:
        """Skipped samples by reason, of all data workers of this rank."""
        return self.pipeline.totals()
