# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Stage 1: image-text pairs from tar shards, mixed, endless, resumable."""

import copy
import itertools
import math
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.dist import get_dist_info
from torch.utils.data import IterableDataset, get_worker_info

from ..prompts import Turn
from ..registry import DATASETS
from ..utils.errors import short_json
from ..utils.sample_errors import SampleError
from .captions import parse_caption
from .remote_shards import shown
from .shard_cache import ShardCache
from .shard_positions import (
    Position,
    Positions,
    default_streams,
    first_positions,
)
from .shard_samples import image_bytes
from .shard_source import ShardStream, Source
from .skipped_samples import SkippingPipeline
from .usable_samples import UsableSamples


class Batch(list):
    """The samples of one batch, and the positions of the streams after it.

    Attributes:
        position: The group of streams, and by the name of each source the
            position of each stream that this rank has read, by its number
            in the group.
    """

    position: tuple[int, dict[str, dict[int, Position]]]


@DATASETS.register_module()
class ImageTextPairs(IterableDataset):
    """Endless batches of image-text pairs, each batch from one source.

    Shards are read in a seeded order without replacement, and samples are
    shuffled in a buffer before they are decoded. The shards are dealt to
    streams, the streams to ranks and data workers; see
    :mod:`~minigpt4.datasets.shard_positions`. The samples of batch ``i``
    depend only on the seed, ``streams`` and the number of data workers at
    the start of the run, not on the number of ranks, nor on where a run was
    interrupted.

    A stream that several ranks or data workers need is read by each of them.
    This is so if the number of ranks does not divide the streams, or if the
    number of data workers has changed.

    Args:
        sources: Dicts of ``name``, ``shards`` and ``weight``; see
            :class:`~minigpt4.datasets.shard_source.Source`.
        pipeline: Transforms.
        batch_size: Samples of one rank's batch.
        seed: Seed.
        shuffle: Samples in the shuffle buffers of the streams of a batch; 0
            keeps their order.
        streams: Streams of a source that a batch is read from, or a divisor
            if the source has too few shards; None for 8, or the smallest
            multiple of 8 and the number of ranks.
        cache_dir: Folder for copies of remote shards; None for no copies.
        cache_gb: Limit of its size in 10^9 bytes.

    Raises:
        ValueError: A source, ``streams`` or ``cache_gb`` is invalid.
        FileNotFoundError: A source has no shard.

    Source: MiniGPT-4 ``datasets/laion_dataset.py`` and ``MultiIterLoader`` of
    ``dataloader_utils.py`` @ d94738a (there shards are drawn with
    replacement and a run cannot be resumed).
    """

    metainfo: dict = {}
    num_images: int | None = None  # unknown before all shards were read

    def __init__(
        self,
        sources: Sequence[dict],
        pipeline: Sequence[dict] = (),
        batch_size: int = 64,
        seed: int = 0,
        shuffle: int = 1000,
        streams: int | None = None,
        cache_dir: 'str | Path | None' = None,
        cache_gb: float = 100.0,
    ) -> None:
        _check_sources(sources)
        if streams is not None and (type(streams) is not int or streams < 1):
            raise ValueError(
                f'streams is {streams!r}; expected a multiple of the number '
                'of ranks.'
            )
        if not isinstance(cache_gb, (int, float)) or not cache_gb > 0:
            raise ValueError(
                f'cache_gb is {cache_gb!r}; expected a number above 0, in '
                '10^9 bytes.'
            )
        cache = ShardCache(cache_dir, cache_gb * 1e9) if cache_dir else None
        self.sources = [
            Source(seed=seed, shuffle=shuffle, cache=cache, **source)
            for source in sources
        ]
        self.streams = streams
        self.pipeline = SkippingPipeline(pipeline)
        self.batch_size = batch_size
        self.seed = seed
        # read here: a spawned data worker has no process group
        self.rank, self.world_size = get_dist_info()
        self.first_batch = 0
        self.positions: Positions | None = None

    def __len__(self) -> int:
        """The largest integer: mmengine asks every loader for a length."""
        return sys.maxsize

    @property
    def num_skipped(self) -> int:
        """Samples that all data workers of this rank have skipped."""
        return self.pipeline.num_skipped

    @property
    def error_counts(self) -> dict[str, int]:
        """Skipped samples by reason and errors in the shards by kind.

        The counts of all data workers of this rank in this run. A shard that
        is read again counts again.
        """
        totals = self.pipeline.totals()
        for source in self.sources:
            for kind, number in source.error_counts.items():
                totals[kind] = totals.get(kind, 0) + number
        return totals

    def image_sources(
        self, start: int = 0, step: int = 1
    ) -> Iterator[tuple[str, bytes]]:
        """Yield name and bytes of the images in every ``step``-th shard.

        Args:
            start: Number of the first shard.
            step: Distance of the shards.
        """
        shards = [
            (source, shard)
            for source in self.sources
            for shard in source.shards
        ]
        for source, shard in shards[start::step]:
            for files in source.samples_of(shard):
                try:
                    yield (
                        f'{shown(shard)} {files["__key__"]}',
                        image_bytes(files),
                    )
                except SampleError:
                    continue  # without an image; training counts it

    @property
    def bytes_read(self) -> int:
        """Bytes of shards that all data workers of this rank have read."""
        return sum(source.bytes_read for source in self.sources)

    @property
    def num_shards(self) -> dict[str, int]:
        """Number of shards of each source."""
        return {source.name: len(source.shards) for source in self.sources}

    def first_positions(self, num_workers: int) -> Positions:
        """The positions of a run that begins.

        Args:
            num_workers: Number of data workers.
        """
        streams = self.streams or default_streams(self.world_size)
        return first_positions(self.num_shards, max(num_workers, 1), streams)

    def start_at(self, batch: int, positions: 'Positions | None') -> None:
        """Set where the stream begins.

        Args:
            batch: Index of the first batch.
            positions: The positions before that batch; None for the
                beginning.
        """
        self.first_batch = batch
        self.positions = copy.deepcopy(positions)

    def __iter__(self) -> Iterator[Batch]:
        info = get_worker_info()
        worker, num_workers = (info.id, info.num_workers) if info else (0, 1)
        positions = self.positions or self.first_positions(num_workers)
        # data workers that need the same groups read all of them
        shared = math.gcd(len(positions), num_workers)
        usable = {
            source.name: UsableSamples(source, num_workers * self.world_size)
            for source in self.sources
        }
        streams = [
            self._open_streams(number, positions)
            for number in range(len(positions))
        ]
        for batch in itertools.count(self.first_batch):
            # the loader numbers its workers from 0 again after a resume
            turn = batch - self.first_batch
            if (turn - worker) % shared:
                continue
            samples = self._read(
                batch,
                streams,
                usable,
                is_own=(turn - worker) % num_workers == 0,
            )
            if samples is not None:
                yield samples

    def _open_streams(
        self, group: int, positions: Positions
    ) -> dict[str, list[ShardStream | None]]:
        """The streams of a group; None for those of other ranks."""
        streams: dict[str, list[ShardStream | None]] = {}
        for source in self.sources:
            start = positions[group][source.name]
            number = len(start)
            shared = math.gcd(number, self.world_size)
            streams[source.name] = [
                ShardStream(
                    source,
                    group * number + index,
                    len(positions) * number,
                    position,
                    shuffle=-(-source.shuffle // number),
                )
                if (index - self.rank) % shared == 0
                else None
                for index, position in enumerate(start)
            ]
        return streams

    def _read(
        self,
        batch: int,
        groups: list[dict[str, list[ShardStream | None]]],
        usable: dict[str, UsableSamples],
        is_own: bool,
    ) -> Batch | None:
        """Read a batch; None if another data worker makes it.

        Raises:
            ValueError: No sample of the source can be used.
        """
        turn, group = divmod(batch, len(groups))
        name = self._choose_source(batch)
        streams = groups[group][name]
        size = self.batch_size * self.world_size
        samples = Batch()
        for i in range(size):
            stream = streams[(turn * size + i) % len(streams)]
            if stream is None:
                continue
            sample_index = (
                f'{name}/{stream.number}/{stream.num_shards}/'
                f'{stream.num_samples}'
            )
            num_shards = stream.num_shards
            files = stream.next()
            is_usable = None
            if is_own and i % self.world_size == self.rank:
                samples.append(self._make_sample(files, sample_index))
                is_usable = samples[-1] is not None
            if not usable[name].is_proven:
                usable[name].add(files, is_usable)
                usable[name].finish(stream, num_shards)
        if not is_own:
            return None
        read = {
            index: (stream.num_shards, stream.num_samples)
            for index, stream in enumerate(streams)
            if stream is not None
        }
        samples.position = group, {name: read}
        return samples

    def _choose_source(self, batch: int) -> str:
        """Return the source of a batch, the same one on all ranks."""
        rng = random.Random(f'{self.seed}-{batch}')
        names = [source.name for source in self.sources]
        return rng.choices(names, [s.weight for s in self.sources])[0]

    def _make_sample(self, files: dict, sample_index: str) -> Any:
        """Return a sample; None if it is skipped."""
        key = f'{files.get("__url__", "")} {files["__key__"]}'
        return self.pipeline.run(
            key,
            lambda: dict(
                id=key,
                sample_index=sample_index,
                images=[image_bytes(files)],
                turns=[Turn('', parse_caption(files))],
            ),
        )


def _check_sources(sources: Sequence[dict]) -> None:
    """Check the names and weights of sources.

    Raises:
        ValueError: There is no source, one is not a dict, two have the same
            name, or a weight is not a number above 0.
    """
    if not sources:
        raise ValueError(
            'sources is empty; expected dicts of name, shards and weight.'
        )
    for source in sources:
        if not isinstance(source, Mapping):
            raise ValueError(
                f'sources has {short_json(source)}; expected dicts of name, '
                'shards and weight. On the command line set one value, e.g. '
                'train_dataloader.dataset.sources.0.shards=...'
            )
    names = [source.get('name') for source in sources]
    for source, name in zip(sources, names, strict=True):
        if names.count(name) > 1:
            raise ValueError(
                f'several sources have the name {name!r}; give each source '
                'a unique name.'
            )
        weight = source.get('weight')
        if (
            isinstance(weight, bool)
            or not isinstance(weight, (int, float))
            or not 0 < weight < math.inf
        ):
            raise ValueError(
                f'the weight of source {name!r} is {weight!r}; expected a '
                'number above 0.'
            )
