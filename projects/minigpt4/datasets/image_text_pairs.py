# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Stage 1: image-text pairs from tar shards, mixed, endless, resumable."""

import math
import random
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from mmengine.dist import get_dist_info
from torch.utils.data import IterableDataset, get_worker_info

from ..prompts import Turn
from ..registry import DATASETS
from ..utils.sample_errors import SampleError
from .captions import parse_caption
from .shard_samples import image_bytes
from .shard_source import ShardStream, Source
from .skipped_samples import SkippingPipeline


class Batch(list):
    """The samples of one batch, and the position of the stream after it.

    Attributes:
        position: The data worker, and by the name of each source how many
            shards and how many samples of the current shard it has read.
    """

    position: tuple[int, dict[str, tuple[int, int]]]


@DATASETS.register_module()
class ImageTextPairs(IterableDataset):
    """Endless batches of image-text pairs, each batch from one source.

    Shards are read in a seeded order without replacement, and samples are
    shuffled in a buffer before they are decoded. The samples of batch ``i``
    depend only on the seed and the number of data workers, not on the number
    of ranks (each rank reads all samples and decodes its own), nor on where
    a run was interrupted. Data worker ``i % num_workers`` makes batch ``i``.

    Args:
        sources: Dicts of ``name``, ``shards`` and ``weight``; see
            :class:`~minigpt4.datasets.shard_source.Source`.
        pipeline: Transforms.
        batch_size: Samples of one rank's batch.
        seed: Seed.
        shuffle: Samples in the shuffle buffer; 0 keeps their order.

    Raises:
        ValueError: A source is invalid.
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
    ) -> None:
        _check_sources(sources)
        self.sources = [
            Source(seed=seed, shuffle=shuffle, **source) for source in sources
        ]
        self.pipeline = SkippingPipeline(pipeline)
        self.batch_size = batch_size
        self.seed = seed
        # read here: a spawned data worker has no process group
        self.rank, self.world_size = get_dist_info()
        self.first_batch = 0
        self.positions: list[dict] | None = None

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
                    yield f'{shard} {files["__key__"]}', image_bytes(files)
                except SampleError:
                    continue  # without an image; training counts it

    def start_at(self, batch: int, positions: 'list[dict] | None') -> None:
        """Set where the stream begins.

        Args:
            batch: Index of the first batch.
            positions: The position of each data worker before that batch;
                None for the beginning.
        """
        self.first_batch = batch
        self.positions = positions

    def __iter__(self) -> Iterator[Batch]:
        info = get_worker_info()
        worker_id, num_workers = (
            (info.id, info.num_workers) if info else (0, 1)
        )
        if self.positions is not None and len(self.positions) != num_workers:
            raise ValueError(
                f'the run was interrupted with {len(self.positions)} data '
                f'workers and is resumed with {num_workers}; set '
                f'train_dataloader.num_workers={max(len(self.positions), 1)} '
                'to read the same samples.'
            )
        batch = self.first_batch + worker_id
        # the loader numbers its workers from 0 again after a resume
        worker = batch % num_workers
        position = self.positions[worker] if self.positions else {}
        streams = {
            source.name: ShardStream(
                source, worker, num_workers, position.get(source.name, (0, 0))
            )
            for source in self.sources
        }
        while True:
            stream = streams[self._choose_source(batch)]
            samples = Batch()
            for i in range(self.batch_size * self.world_size):
                sample_index = (
                    f'{stream.source.name}/{stream.num_shards}/'
                    f'{stream.num_samples}'
                )
                files = stream.next()
                if i % self.world_size == self.rank:
                    samples.append(self._make_sample(files, sample_index))
            samples.position = (
                worker,
                {
                    name: (stream.num_shards, stream.num_samples)
                    for name, stream in streams.items()
                },
            )
            yield samples
            batch += num_workers

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
        ValueError: There is no source, two have the same name, or a weight
            is not a number above 0.
    """
    if not sources:
        raise ValueError(
            'sources is empty; expected dicts of name, shards and weight.'
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
