# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Read the shards of a source in an endless, seeded, resumable order."""

import logging
import random
from collections.abc import Iterator, Sequence

import webdataset
from mmengine.logging import print_log

from .shard_files import ShardBytes, find_shards
from .shard_samples import group_samples
from .skipped_samples import ErrorCounter
from .tar_reader import TarReader

# kinds of errors that the readers report, as they are logged
_ERROR_KINDS = {
    'damaged': 'part of a shard cannot be read',
    'unread': 'file of a shard is not read',
    'duplicate': 'duplicate file in a shard',
    'joined': 'shard of several tar files',
}


class Source:
    """A list of shards with a weight.

    The shards have an endless order: each pass over them uses another
    permutation.

    Args:
        name: Name for logs.
        shards: Paths: a string with braces or wildcards, or a list of such.
        weight: How often a batch is read from the source, relative to the
            weights of the other sources.
        seed: Seed of the order of shards and of the samples in each.
        shuffle: Samples in the shuffle buffer, which are not decoded yet.

    Raises:
        FileNotFoundError: No shard exists.
    """

    def __init__(
        self,
        name: str,
        shards: 'str | Sequence[str]',
        weight: float,
        seed: int,
        shuffle: int,
    ) -> None:
        self.name, self.weight = name, weight
        self.seed, self.shuffle = seed, shuffle
        self.shards, self._remote, missing = find_shards(shards)
        self._errors = ErrorCounter(tuple(_ERROR_KINDS.values()))
        if not self.shards:
            raise FileNotFoundError(
                f'no shard of {name!r} found under {shards!r}; expected tar '
                'files of img2dataset; set the path of the source.'
            )
        if missing:
            print_log(
                f'{name}: {missing} of {missing + len(self.shards)} shards do '
                'not exist; training continues without them.',
                logger='current',
                level=logging.WARNING,
            )

    def shard_at(self, index: int) -> str:
        """Return the shard at an index of the endless order."""
        number, i = divmod(index, len(self.shards))
        order = list(self.shards)
        random.Random(f'{self.seed}-{self.name}-{number}').shuffle(order)
        return order[i]

    def read_shuffled(self, index: int) -> Iterator[dict]:
        """Yield the shuffled samples of the shard at an index.

        Yields:
            Bytes by suffix; see
            :func:`~minigpt4.datasets.shard_samples.group_samples`.
        """
        samples = self.samples_of(self.shard_at(index))
        if self.shuffle:
            rng = random.Random(f'{self.seed}-{self.name}-{index}')
            samples = webdataset.shuffle(self.shuffle, rng=rng)(samples)
        yield from samples

    def samples_of(self, shard: str) -> Iterator[dict]:
        """Yield the samples of a shard in their order in the file.

        Damage in the tar is logged, counted and skipped.
        """

        def report(kind: str, message: str) -> None:
            self._errors.add(
                _ERROR_KINDS[kind], f'{self.name}: shard {shard}: {message}'
            )

        with ShardBytes(shard, shard in self._remote) as chunks:
            members = TarReader(chunks, report, lambda: chunks.size)
            yield from group_samples(members, shard, report)

    @property
    def error_counts(self) -> dict[str, int]:
        """Errors in the shards by kind, over all data workers."""
        return self._errors.totals()


class ShardStream:
    """The endless samples of a source that one data worker reads.

    Worker ``w`` of ``n`` reads the shards with the indices ``w``, ``w + n``,
    ``w + 2 n`` ... of the endless order.

    Args:
        source: The source.
        worker: Number of the data worker.
        num_workers: Number of data workers.
        position: Where to begin: how many shards were read completely, and
            how many samples of the current one.

    Attributes:
        num_shards: Shards that were read completely.
        num_samples: Samples of the current shard that were read.
    """

    def __init__(
        self,
        source: Source,
        worker: int,
        num_workers: int,
        position: Sequence[int] = (0, 0),
    ) -> None:
        self.source = source
        self.worker, self.num_workers = worker, num_workers
        self.num_shards, self.num_samples = position
        self._samples: Iterator[dict] | None = None
        self._empty_shards: set[str] = set()

    def next(self) -> dict:
        """Return the next sample, as bytes by suffix.

        Raises:
            ValueError: No shard of the source has a sample, or the current
                shard has fewer samples than the position.
        """
        if self._samples is None:
            self._samples = self._resume()
        while True:
            sample = next(self._samples, None)
            if sample is not None:
                self.num_samples += 1
                self._empty_shards.clear()
                return sample
            if self.num_samples == 0:
                self._check_not_all_empty()
            self.num_shards += 1
            self.num_samples = 0
            self._samples = self.source.read_shuffled(self._index)

    @property
    def _index(self) -> int:
        """Index of the current shard in the endless order."""
        return self.worker + self.num_shards * self.num_workers

    def _resume(self) -> Iterator[dict]:
        """Read the current shard again, up to the position."""
        samples = self.source.read_shuffled(self._index)
        for number in range(self.num_samples):
            if next(samples, None) is None:
                raise ValueError(
                    f'the shard {self.source.shard_at(self._index)} of '
                    f'{self.source.name!r} has {number} samples, but '
                    f'{self.num_samples} of it were read before: the data '
                    'have changed since the checkpoint was saved, or the '
                    'checkpoint belongs to other data.'
                )
        return samples

    def _check_not_all_empty(self) -> None:
        self._empty_shards.add(self.source.shard_at(self._index))
        if self._empty_shards.issuperset(self.source.shards):
            raise ValueError(
                f'none of the {len(self.source.shards)} shards of '
                f'{self.source.name!r} contains a sample; expected tar files '
                'of KEY.jpg, KEY.json as img2dataset writes them.'
            )
