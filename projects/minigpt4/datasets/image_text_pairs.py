# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Stage 1: image-text pairs from tar shards, mixed, endless, resumable."""

import logging
import math
import random
import sys
from collections.abc import Iterator, Sequence

import webdataset
from mmengine.dataset import Compose
from mmengine.dist import get_dist_info
from mmengine.logging import print_log
from torch.utils.data import IterableDataset, get_worker_info

from ..images.read import SampleError
from ..prompts.prompt import Turn
from ..registry import DATASETS
from ..utils.errors import printable
from ..utils.fault_log import NO_IMAGE, FaultLog, SkippedSamples
from .captions import caption_of
from .shard_files import ShardBytes, find_shards
from .shard_samples import IMAGE_SUFFIXES, samples_of
from .tar_members import TarMembers

_FAULTS = {
    'damaged': 'part of a shard cannot be read',
    'unread': 'file of a shard is not read',
    'duplicate': 'duplicate file in a shard',
    'joined': 'shard of several tar files',
}


class Batch(list):
    """Samples of one batch, and where in the stream the next one begins.

    Attributes:
        position: ``(lane, {source: [shards begun, samples taken]})``.
    """

    position: tuple[int, dict]


class _Stream:
    """The endless samples of one source in one lane, from any position."""

    def __init__(
        self, source: 'Source', lane: int, lanes: int, position: Sequence[int]
    ) -> None:
        self.source, self.lane, self.lanes = source, lane, lanes
        self.shards, self.taken = position
        self._samples: Iterator[dict] = iter(())
        self._fresh = True
        self._barren: set[str] = set()

    def next(self) -> dict:
        """The next raw sample (bytes by suffix)."""
        if self._fresh:  # a resumed shard is read again up to the place
            self._fresh = False
            self._samples = self._read()
            for number in range(self.taken):
                if next(self._samples, None) is None:
                    raise ValueError(
                        f'the shard {self.source.shard(self._place)} of '
                        f'{self.source.name!r} holds {number} samples, but '
                        f'{self.taken} of it were taken before: the data '
                        'have changed since the checkpoint was saved, or '
                        'the checkpoint is of other data.'
                    )
        while True:
            sample = next(self._samples, None)
            if sample is not None:
                self.taken += 1
                self._barren.clear()
                return sample
            if self.taken == 0:
                self._barren.add(self.source.shard(self._place))
                if self._barren.issuperset(self.source.shards):
                    raise ValueError(
                        f'none of the {len(self.source.shards)} shards of '
                        f'{self.source.name!r} holds a sample; expected tar '
                        'files of KEY.jpg, KEY.json as img2dataset writes '
                        'them.'
                    )
            self.shards += 1
            self.taken = 0
            self._samples = self._read()

    @property
    def _place(self) -> int:
        return self.lane + self.shards * self.lanes

    def _read(self) -> Iterator[dict]:
        return self.source.read(self._place)


class Source:
    """A set of shards.

    Args:
        name: Its name, in logs.
        shards: Paths: a string with braces or wildcards, or a list of such.
        weight: How often a batch is drawn from it, relative to the others.
        seed: Seed of the order of shards and of the samples in each.
        shuffle: Samples of the shuffle buffer (before decoding).
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
        self._log = FaultLog(tuple(_FAULTS.values()))
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

    def shard(self, place: int) -> str:
        """The shard at a place of the endless order."""
        turn, index = divmod(place, len(self.shards))
        order = list(self.shards)
        random.Random(f'{self.seed}-{self.name}-{turn}').shuffle(order)
        return order[index]

    def read(self, place: int) -> Iterator[dict]:
        """Raw samples of the shard at a place of the endless order."""
        samples = self.samples_of(self.shard(place))
        if self.shuffle:
            rng = random.Random(f'{self.seed}-{self.name}-{place}')
            samples = webdataset.shuffle(self.shuffle, rng=rng)(samples)
        yield from samples

    def samples_of(self, shard: str) -> Iterator[dict]:
        """Raw samples of a shard, in its order.

        Damage of the tar is reported and skipped.
        """

        def report(kind: str, message: str) -> None:
            self._log.add(
                _FAULTS[kind], f'{self.name}: shard {shard}: {message}'
            )

        with ShardBytes(shard, shard in self._remote) as data:
            members = TarMembers(data, report, lambda: data.size)
            yield from samples_of(members, shard, report)

    @property
    def faults(self) -> dict[str, int]:
        """Faults of the shards by kind, of all data workers so far."""
        return self._log.totals()


@DATASETS.register_module()
class ImageTextPairs(IterableDataset):
    """Endless batches of image-text pairs, each batch from one source.

    Shards are read with the ``webdataset`` library in a seeded order without
    replacement, samples shuffled in a buffer before they are decoded. What
    batch ``i`` holds depends on the seed and the number of data workers
    alone: not on the number of ranks (each rank reads all and decodes its
    share), nor on where a run was interrupted.

    A worker is a *lane*: batch ``i`` comes from lane ``i % lanes``. A lane's
    position is, for each source, how many of its shards it has begun before
    and how many samples of the present one it has taken.

    Args:
        sources: Dicts of ``name``, ``shards`` and ``weight``; see
            :class:`Source`.
        pipeline: Transforms.
        batch_size: Samples of one rank's batch.
        seed: Seed.
        shuffle: Samples of the shuffle buffer; 0 keeps their order.

    Source: MiniGPT-4 ``datasets/laion_dataset.py`` and ``MultiIterLoader`` of
    ``dataloader_utils.py`` @ d94738a (there shards are drawn with
    replacement and nothing can be resumed).
    """

    metainfo: dict = {}

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
        self.pipeline = Compose(pipeline)
        self.batch_size = batch_size
        self.seed = seed
        self._skipped = SkippedSamples()
        # here, for a spawned data worker knows nothing of ranks
        self.rank, self.world_size = get_dist_info()
        self.first_batch = 0
        self.positions: list[dict] | None = None

    def __len__(self) -> int:
        """As good as endless; mmengine asks every loader for a length."""
        return sys.maxsize

    @property
    def bad(self) -> int:
        """Samples that were left out so far, by all data workers."""
        return len(self._skipped)

    @property
    def faults(self) -> dict[str, int]:
        """Skipped samples by reason and faults of the shards by kind.

        Of all data workers of this rank, in this run. A shard that is read
        again counts again.
        """
        totals = self._skipped.totals()
        for source in self.sources:
            for kind, number in source.faults.items():
                totals[kind] = totals.get(kind, 0) + number
        return totals

    num_images = None  # known when all shards were read

    def image_sources(
        self, share: int = 0, shares: int = 1
    ) -> Iterator[tuple[str, bytes]]:
        """Name and bytes of all images of every ``shares``-th shard."""
        places = [
            (source, shard)
            for source in self.sources
            for shard in source.shards
        ]
        for source, shard in places[share::shares]:
            for raw in source.samples_of(shard):
                try:
                    yield f'{shard} {raw["__key__"]}', _image(raw)
                except SampleError:
                    continue  # it has no image: training counts it

    def start_at(self, batch: int, positions: 'list[dict] | None') -> None:
        """Set where the stream begins.

        Args:
            batch: Number of the first batch.
            positions: The position of each lane then; None at the beginning.
        """
        self.first_batch = batch
        self.positions = positions

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        number, lanes = (worker.id, worker.num_workers) if worker else (0, 1)
        if self.positions is not None and len(self.positions) != lanes:
            raise ValueError(
                f'the run was interrupted with {len(self.positions)} data '
                f'workers and goes on with {lanes}; set '
                f'train_dataloader.num_workers={max(len(self.positions), 1)} '
                'to read the same samples.'
            )
        batch = self.first_batch + number
        lane = batch % lanes
        start = self.positions[lane] if self.positions else {}
        streams = {
            source.name: _Stream(
                source, lane, lanes, start.get(source.name, (0, 0))
            )
            for source in self.sources
        }
        while True:
            stream = streams[self._draw_source(batch)]
            samples = Batch()
            for i in range(self.batch_size * self.world_size):
                place = f'{stream.source.name}/{stream.shards}/{stream.taken}'
                raw = stream.next()
                if i % self.world_size == self.rank:
                    samples.append(self._decode(raw, place))
            samples.position = (
                lane,
                {name: (s.shards, s.taken) for name, s in streams.items()},
            )
            yield samples
            batch += lanes

    def _draw_source(self, batch: int) -> str:
        """The source of a batch, the same on all ranks."""
        rng = random.Random(f'{self.seed}-{batch}')
        names = [source.name for source in self.sources]
        return rng.choices(names, [s.weight for s in self.sources])[0]

    def _decode(self, raw: dict, place: str):
        """A sample, or None where it cannot be used (named and counted)."""
        key = f'{raw.get("__url__", "")} {raw["__key__"]}'
        try:
            record = dict(
                id=key,
                draw=place,
                images=[_image(raw)],
                turns=[Turn('', caption_of(raw))],
            )
            return self.pipeline(record)
        except SampleError as error:
            self._skipped.add(error.reason, f'{key}: {error}')
            return None


def _check_sources(sources: Sequence[dict]) -> None:
    """Refuse sources that cannot be drawn from.

    Raises:
        ValueError: There is none, a name is used twice, or a weight is no
            number above 0.
    """
    if not sources:
        raise ValueError(
            'sources is empty; expected dicts of name, shards and weight.'
        )
    names = [source.get('name') for source in sources]
    for source, name in zip(sources, names, strict=True):
        if names.count(name) > 1:
            raise ValueError(
                f'several sources have the name {name!r}; give each a name '
                'of its own.'
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


def _image(raw: dict) -> bytes:
    for suffix in IMAGE_SUFFIXES:
        if suffix in raw:
            return raw[suffix]
    found = sorted(name for name in raw if not name.startswith('__'))
    raise SampleError(
        f'it has {printable(str(found))} but no image '
        f'({", ".join(IMAGE_SUFFIXES)}).',
        NO_IMAGE,
    )
