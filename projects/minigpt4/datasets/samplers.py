# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The endless order of training samples, which depends only on the seed."""

import random
from collections.abc import Iterator, Sequence, Sized
from typing import Protocol

import torch
from mmengine.dist import get_dist_info, sync_random_seed
from torch.utils.data import Sampler

from ..registry import DATA_SAMPLERS


@DATA_SAMPLERS.register_module()
class EndlessSampler(Sampler):
    """Yields ``(record_index, sample_index)`` without end.

    ``sample_index`` counts the samples of the run, over all ranks. Each pass
    over the dataset uses another permutation. Sample ``i`` belongs to rank
    ``i % world_size``, so the global batches are the same on any number of
    ranks, and a run resumes by setting :attr:`start`.

    Args:
        dataset: The dataset.
        seed: Seed of the permutations; None to draw one that all ranks use.
        shuffle: Whether to permute the records.

    Attributes:
        start: Sample index of the first sample, over all ranks.
    """

    def __init__(
        self, dataset: Sized, seed: int | None = None, shuffle: bool = True
    ) -> None:
        self.size = len(dataset)
        self.seed = sync_random_seed() if seed is None else seed
        self.shuffle = shuffle
        self.start = 0
        self.rank, self.world_size = get_dist_info()

    def __iter__(self) -> Iterator[tuple[int, int]]:
        sample_index = self.start + self.rank
        current_pass, order = -1, []
        while True:
            if sample_index // self.size != current_pass:
                current_pass = sample_index // self.size
                order = self._permutation(current_pass)
            yield order[sample_index % self.size], sample_index
            sample_index += self.world_size

    def _permutation(self, number: int) -> list[int]:
        """Return the order of the records in a pass."""
        if not self.shuffle:
            return list(range(self.size))
        return _permutation(self.size, self.seed * 1_000_003 + number)

    def __len__(self) -> int:
        """Samples of one pass, on one rank."""
        return self.size // self.world_size


class Mixture(Protocol):
    """The members of a data set that :class:`MixedSampler` uses.

    Attributes:
        sizes: Number of records of each part.
        weights: Samples of each part in a block.
    """

    sizes: Sequence[int]
    weights: Sequence[int]


@DATA_SAMPLERS.register_module()
class MixedSampler(Sampler):
    """Yields ``(record_index, part_index)`` of a mixture without end.

    The samples of the run, over all ranks, are cut into blocks of
    ``sum(weights)`` samples. Every block has exactly ``weights[k]`` samples
    of part ``k``, in a seeded order. Each pass over a part uses another
    permutation of its records, and ends when its records are used, whatever
    the sizes of the other parts.

    ``record_index`` counts the records of all parts; ``part_index`` counts
    the samples of this part in the run. Sample ``i`` belongs to rank
    ``i % world_size``, so the global batches are the same on any number of
    ranks, and a run resumes by setting :attr:`start`.

    Args:
        dataset: The data set, e.g. :class:`~.mixed.MixedDataset`.
        seed: Seed of all orders; None to draw one that all ranks use.

    Attributes:
        start: Sample index of the first sample, over all ranks.
    """

    def __init__(self, dataset: Mixture, seed: int | None = None) -> None:
        self.sizes = list(dataset.sizes)
        self.weights = list(dataset.weights)
        self.seed = sync_random_seed() if seed is None else seed
        self.start = 0
        self.rank, self.world_size = get_dist_info()

    def __iter__(self) -> Iterator[tuple[int, int]]:
        size = sum(self.weights)
        sample_index = self.start + self.rank
        current_block, parts = -1, []
        orders: dict[int, tuple[int, list[int]]] = {}
        while True:
            block, place = divmod(sample_index, size)
            if block != current_block:
                current_block, parts = block, self._block(block)
            part = parts[place]
            number = block * self.weights[part] + parts[:place].count(part)
            pass_, index = divmod(number, self.sizes[part])
            if part not in orders or orders[part][0] != pass_:
                orders[part] = pass_, self._order(part, pass_)
            offset = sum(self.sizes[:part])
            yield offset + orders[part][1][index], number
            sample_index += self.world_size

    def _block(self, number: int) -> list[int]:
        """The part of each sample of a block."""
        parts = [
            part
            for part, weight in enumerate(self.weights)
            for _ in range(weight)
        ]
        random.Random(f'{self.seed}-block-{number}').shuffle(parts)
        return parts

    def _order(self, part: int, number: int) -> list[int]:
        """The order of the records of a part in one of its passes."""
        seed = random.Random(f'{self.seed}-{part}-{number}').getrandbits(62)
        return _permutation(self.sizes[part], seed)

    def __len__(self) -> int:
        """Records of all parts, on one rank."""
        return sum(self.sizes) // self.world_size


def _permutation(size: int, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed % 2**63)
    return torch.randperm(size, generator=generator).tolist()
