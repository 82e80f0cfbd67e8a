# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""End a run whose shards have no sample that can be used."""

from ..utils.errors import printable
from ..utils.sample_errors import SampleError
from .captions import parse_caption
from .shard_samples import image_bytes
from .shard_source import ShardStream, Source

# A process reads a part of the shards. So many of a random order without a
# usable sample say that there is none, also if that part is smaller.
_MIN_SHARDS = 100


class UsableSamples:
    """Finds out whether a source has a usable sample, in one process.

    Without it a reader would skip the samples of such shards without end.

    Args:
        source: The source.
        num_processes: Data workers of all ranks, which share the shards.

    Attributes:
        is_proven: Whether a sample could be used.
    """

    def __init__(self, source: Source, num_processes: int) -> None:
        self.is_proven = False
        self._source = source
        number = len(source.shards)
        share = -(-number // num_processes)
        self._num_expected = min(number, max(share, _MIN_SHARDS))
        self._finished: set[str] = set()
        self._num_samples = 0
        self._example = ''

    def add(self, files: dict, is_usable: bool | None) -> None:
        """Add a sample.

        Args:
            files: Bytes of its files by suffix.
            is_usable: Whether the pipeline could use it; None if it belongs
                to another process, so that it was not decoded.
        """
        reason = _reason(files)
        self.is_proven = reason is None if is_usable is None else is_usable
        self._num_samples += 1
        if not self._example:
            shard, key = files.get('__url__', ''), files['__key__']
            reason = reason or 'its image or text cannot be read.'
            self._example = printable(f'{shard} {key}: {reason}')[:400]

    def finish(self, stream: ShardStream, since: int) -> None:
        """Add the shards that a stream has read completely.

        Args:
            stream: The stream.
            since: The number of its shards that were added before.

        Raises:
            ValueError: No sample of all shards that this process reads can
                be used.
        """
        source = self._source
        for number in range(
            max(since, stream.first_complete), stream.num_shards
        ):
            shard = source.shard_at(
                stream.number + number * stream.num_streams
            )
            if shard not in source.given_up:
                self._finished.add(shard)
        if self.is_proven or len(self._finished) < self._num_expected:
            return
        raise ValueError(
            f'no sample of {source.name!r} can be used: '
            f'{self._num_samples:,} were read from {len(self._finished):,} of '
            f'its {len(source.shards):,} shards, for instance {self._example} '
            'Expected samples of KEY.jpg (or another image) and KEY.json with '
            'a "caption" or KEY.txt, as img2dataset writes them; "minigpt4 '
            'data check SHARDS" names what is wrong with each sample.'
        )


def _reason(files: dict) -> str | None:
    """Why a sample cannot be used; None if it has an image and a caption."""
    try:
        image_bytes(files)
        parse_caption(files)
    except SampleError as error:
        return str(error)
    return None
