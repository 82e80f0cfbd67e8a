# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Read the shards of a source in an endless, seeded, resumable order."""

import logging
import random
import time
from collections.abc import Iterator, Sequence

import webdataset
from mmengine.logging import print_log

from ..utils.time_limit import READ_SECONDS_VARIABLE, read_seconds
from .remote_shards import shown
from .shard_cache import ShardCache
from .shard_files import ShardBytes, find_shards
from .shard_positions import Position
from .shard_samples import group_samples
from .skipped_samples import ErrorCounter, WorkerSum
from .tar_reader import TarReader

# kinds of errors that the readers report, as they are logged
_ERROR_KINDS = {
    'damaged': 'part of a shard cannot be read',
    'given up': 'shard was given up',
    'unread': 'file of a shard is not read',
    'duplicate': 'duplicate file in a shard',
    'joined': 'shard of several tar files',
}
# A run ends if a stream has had no sample for this many times the time limit
# of a read: the other ranks wait for it, and give up too.
_MAX_TIME_LIMITS = 5


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
        shuffle: Samples in the shuffle buffers of the streams of a batch,
            which are not decoded yet.
        cache: Cache of remote shards, if there is one.

    Attributes:
        given_up: Shards whose bytes could not be read in this process, and
            why.
        problems: The last damage, or reason, of these and other shards.

    Raises:
        FileNotFoundError: No shard exists.
        ValueError: A shard is on a store whose package is not installed.
    """

    def __init__(
        self,
        name: str,
        shards: 'str | Sequence[str]',
        weight: float,
        seed: int,
        shuffle: int,
        cache: ShardCache | None = None,
    ) -> None:
        self.name, self.weight = name, weight
        self.seed, self.shuffle = seed, shuffle
        self.given_up: dict[str, str] = {}
        self.problems: dict[str, str] = {}
        self._cache = cache
        self._bytes_read = WorkerSum()
        self.shards, self._remote, missing = find_shards(shards)
        if cache is not None:
            cache.add_needed(self._remote)
        self._errors = ErrorCounter(tuple(_ERROR_KINDS.values()))
        if not self.shards:
            raise FileNotFoundError(
                f'no shard of {name!r} found under {shown(repr(shards))}; '
                'expected tar '
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

    def read_shuffled(self, index: int, shuffle: int) -> Iterator[dict]:
        """Yield the shuffled samples of the shard at an index.

        Args:
            index: Index in the endless order.
            shuffle: Samples in the shuffle buffer; 0 keeps their order.

        Yields:
            Bytes by suffix; see
            :func:`~minigpt4.datasets.shard_samples.group_samples`.
        """
        samples = self.samples_of(self.shard_at(index))
        if shuffle:
            rng = random.Random(f'{self.seed}-{self.name}-{index}')
            samples = webdataset.shuffle(shuffle, rng=rng)(samples)
        yield from samples

    def samples_of(self, shard: str) -> Iterator[dict]:
        """Yield the samples of a shard in their order in the file.

        Damage in the tar is logged, counted and skipped; a copy with damage
        is not kept in the cache.
        """
        is_intact = True

        def report(kind: str, message: str) -> None:
            nonlocal is_intact
            is_intact &= kind not in ('damaged', 'given up')
            if not is_intact:
                self.problems[shard] = message
            if kind == 'given up':
                self.given_up[shard] = message
            self._errors.add(
                _ERROR_KINDS[kind],
                f'{self.name}: shard {shown(shard)}: {message}',
            )

        self.given_up.pop(shard, None)
        self.problems.pop(shard, None)
        data = ShardBytes(
            shard, shard in self._remote, self._cache, self._bytes_read.add
        )
        with data as chunks:
            members = TarReader(chunks, report, lambda: chunks.size)
            yield from group_samples(members, shown(shard), report)
            data.settle_copy(is_intact)

    @property
    def bytes_read(self) -> int:
        """Bytes of shards that all data workers of this rank have read."""
        return self._bytes_read.total()

    @property
    def error_counts(self) -> dict[str, int]:
        """Errors in the shards by kind, over all data workers."""
        return self._errors.totals()


class ShardStream:
    """The endless samples of a source that one stream has.

    Stream ``s`` of ``n`` has the shards with the indices ``s``, ``s + n``,
    ``s + 2 n`` ... of the endless order.

    Args:
        source: The source.
        number: Number of the stream.
        num_streams: Number of streams of the source.
        position: Where to begin: how many shards were read completely, and
            how many samples of the current one.
        shuffle: Samples in the shuffle buffer; by default those of the
            source.

    Attributes:
        num_shards: Shards that were read completely.
        num_samples: Samples of the current shard that were read.
        first_complete: Number of the first shard that is read from its
            beginning.
    """

    def __init__(
        self,
        source: Source,
        number: int,
        num_streams: int,
        position: Position = (0, 0),
        shuffle: int | None = None,
    ) -> None:
        self.source = source
        self.number, self.num_streams = number, num_streams
        self.num_shards, self.num_samples = position
        self.first_complete = self.num_shards + (self.num_samples > 0)
        self.shuffle = source.shuffle if shuffle is None else shuffle
        self._samples: Iterator[dict] | None = None
        self._empty_shards: set[str] = set()
        self._empty_since: float | None = None

    def next(self) -> dict:
        """Return the next sample, as bytes by suffix.

        Raises:
            ValueError: No shard of the source has a sample, the current
                shard has fewer samples than the position, or no shard could
                be read for a long time.
        """
        if self._samples is None:
            self._samples = self._resume()
        while True:
            started = time.monotonic()
            sample = next(self._samples, None)
            if sample is not None:
                self.num_samples += 1
                self._empty_shards.clear()
                self._empty_since = None
                return sample
            if self.num_samples == 0:
                self._check_empty_shard(started)
            self.num_shards += 1
            self.num_samples = 0
            self._samples = self._read()

    @property
    def _shard(self) -> str:
        return self.source.shard_at(self._index)

    @property
    def _index(self) -> int:
        """Index of the current shard in the endless order."""
        return self.number + self.num_shards * self.num_streams

    def _read(self) -> Iterator[dict]:
        return self.source.read_shuffled(self._index, self.shuffle)

    def _resume(self) -> Iterator[dict]:
        """Read the current shard again, up to the position."""
        samples = self._read()
        for number in range(self.num_samples):
            if next(samples, None) is not None:
                continue
            if self._shard in self.source.given_up:
                return iter(())  # reported; the stream goes on without it
            raise ValueError(
                f'the shard {shown(self._shard)} of {self.source.name!r} has '
                f'{number} samples, but {self.num_samples} of it were read '
                'before: the data have changed since the checkpoint was '
                'saved, or the checkpoint belongs to other data.'
            )
        return samples

    def _check_empty_shard(self, started: float) -> None:
        """Check that an end of the empty shards can be expected.

        Args:
            started: Time at which the shard was opened.
        """
        shard, source = self._shard, self.source
        if self._empty_since is None:
            self._empty_since = started
        self._empty_shards.add(shard)
        if self._empty_shards.issuperset(source.shards):
            raise ValueError(self._no_sample())
        seconds = time.monotonic() - self._empty_since
        if seconds > _MAX_TIME_LIMITS * read_seconds():
            raise ValueError(
                f'no shard of {source.name!r} could be read for '
                f'{seconds:.0f} seconds, in which '
                f'{len(self._empty_shards)} were given up; check the disk or '
                'the server that has them, then resume the run '
                f'({READ_SECONDS_VARIABLE} sets the limit of a read).'
                + _last_problem(source, shard)
            )

    def _no_sample(self) -> str:
        """Say why no shard of the source has given a sample."""
        source = self.source
        number = f'{len(source.shards)} shards of {source.name!r}'
        lost = sorted(source.given_up.keys() & self._empty_shards)
        if not lost:
            return (
                f'none of the {number} contains a sample; expected tar files '
                'of KEY.jpg, KEY.json as img2dataset writes them.'
                + _last_problem(source, self._shard)
            )
        others = '; the others contain no sample'
        return (
            f'{shown(lost[-1])}: {source.given_up[lost[-1]]} So {len(lost)} '
            f'of the {number} could not be read'
            + (others if len(lost) < len(source.shards) else '')
            + '; check their addresses and the disk or server that has '
            f'them, then start the run again ({READ_SECONDS_VARIABLE} sets '
            'the limit of a read).'
        )


def _last_problem(source: Source, shard: str) -> str:
    problem = source.problems.get(shard)
    return f' The last one: {shown(shard)}: {problem}' if problem else ''
