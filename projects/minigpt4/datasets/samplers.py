# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The endless order of training samples, a function of seed and place."""

from collections.abc import Iterator, Sized

import torch
from mmengine.dist import get_dist_info, sync_random_seed
from torch.utils.data import Sampler

from ..registry import DATA_SAMPLERS


@DATA_SAMPLERS.register_module()
class EndlessSampler(Sampler):
    """Yields ``(index, place)`` for ever, a new permutation each pass.

    Place ``p`` of the stream belongs to rank ``p % world_size``, so the
    global batches are the same on any number of ranks, and a run resumes by
    setting :attr:`start`.

    Args:
        dataset: The dataset.
        seed: Seed of the permutations; drawn (the same on all ranks) if None.
        shuffle: Whether to permute.

    Attributes:
        start: First place of the stream, over all ranks.
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
        place = self.start + self.rank
        turn, order = -1, []
        while True:
            if place // self.size != turn:
                turn = place // self.size
                order = self._order(turn)
            yield order[place % self.size], place
            place += self.world_size

    def _order(self, turn: int) -> list[int]:
        if not self.shuffle:
            return list(range(self.size))
        generator = torch.Generator().manual_seed(
            (self.seed * 1_000_003 + turn) % 2**63
        )
        return torch.randperm(self.size, generator=generator).tolist()

    def __len__(self) -> int:
        """Samples of one pass, on one rank."""
        return self.size // self.world_size
