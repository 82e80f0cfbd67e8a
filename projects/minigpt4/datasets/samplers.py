# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The endless order of training samples, which depends only on the seed."""

from collections.abc import Iterator, Sized

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
        generator = torch.Generator().manual_seed(
            (self.seed * 1_000_003 + number) % 2**63
        )
        return torch.randperm(self.size, generator=generator).tolist()

    def __len__(self) -> int:
        """Samples of one pass, on one rank."""
        return self.size // self.world_size
