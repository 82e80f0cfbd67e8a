# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Several data sets as one, in which each has a weight."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from torch.utils.data import Dataset

from ..registry import DATASETS


@DATASETS.register_module()
class MixedDataset(Dataset):
    """The records of several data sets, one after the other.

    Its sampler is :class:`~.samplers.MixedSampler`, which draws them by the
    weights. MMEngine's ``ConcatDataset`` has no weights, and takes only data
    sets of MMEngine's base class.

    Args:
        datasets: Configs of the data sets, the parts. A sample of a part is
            what the part returns, so each needs a pipeline.
        weights: Samples of each part in a block of ``sum(weights)`` samples:
            whole numbers of at least 1. Where the block divides the global
            batch, all batches have the same composition.

    Attributes:
        parts: The data sets.
        sizes: Number of records of each.
        weights: As given.

    Raises:
        ValueError: There is no data set, or the weights do not fit.
    """

    metainfo: dict = {}

    def __init__(
        self, datasets: Sequence[dict], weights: Sequence[int]
    ) -> None:
        if not datasets or len(datasets) != len(weights):
            raise ValueError(
                f'MixedDataset has {len(datasets)} datasets and '
                f'{len(weights)} weights; expected at least one, and as many '
                'of both.'
            )
        for number, weight in enumerate(weights):
            if type(weight) is not int or weight < 1:
                raise ValueError(
                    f'weights[{number}] of MixedDataset is {weight!r}; '
                    'expected a whole number of at least 1. To omit a data '
                    'set, remove it and its weight.'
                )
        self.parts = [DATASETS.build({**config}) for config in datasets]
        self.sizes = [len(part) for part in self.parts]
        self.weights = list(weights)

    def __len__(self) -> int:
        return sum(self.sizes)

    def __getitem__(self, key: 'int | tuple[int, int]') -> Any:
        """Return a sample; None if it is skipped.

        Args:
            key: Index of the record, or that and the index among the samples
                of its part in the run.
        """
        index, sample_index = key if isinstance(key, tuple) else (key, None)
        if index >= len(self):
            raise IndexError(f'{index} of {len(self)} records')
        number = 0
        while index >= self.sizes[number]:
            index -= self.sizes[number]
            number += 1
        part = self.parts[number]
        return part[index if sample_index is None else (index, sample_index)]

    @property
    def num_skipped(self) -> int:
        """Samples that all data workers of this rank have skipped."""
        return sum(part.num_skipped for part in self.parts)

    @property
    def error_counts(self) -> dict[str, int]:
        """Skipped samples by reason, of all data workers of this rank."""
        totals: dict[str, int] = {}
        for part in self.parts:
            for kind, number in part.error_counts.items():
                totals[kind] = totals.get(kind, 0) + number
        return totals

    @property
    def num_images(self) -> int:
        """Sum of the numbers of images of the parts."""
        return sum(part.num_images for part in self.parts)

    def image_sources(
        self, start: int = 0, step: int = 1
    ) -> Iterator[tuple[str, Any]]:
        """Yield name and source of the images of all parts.

        Args:
            start: Number of the first image of each part.
            step: Distance of the images.
        """
        return chain.from_iterable(
            part.image_sources(start, step) for part in self.parts
        )


def part_configs(config: Mapping[str, Any]) -> list:
    """The configs of the parts of a data set; of any other one itself.

    Args:
        config: The config of a data set.
    """
    if 'datasets' in config and 'weights' in config:
        return [p for part in config['datasets'] for p in part_configs(part)]
    return [config]
