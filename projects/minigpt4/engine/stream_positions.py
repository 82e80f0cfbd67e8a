# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Where a stage-1 run starts in its shard streams, new or resumed."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ..datasets import ImageTextPairs
from ..datasets.shard_positions import (
    Positions,
    default_streams,
    moved_positions,
    restored_positions,
)

_STREAMS = 'train_dataloader.dataset.streams'
_WORKERS = 'train_dataloader.num_workers'


@dataclass
class StreamState:
    """What a checkpoint contains of the shard streams.

    Attributes:
        positions: See :mod:`~minigpt4.datasets.shard_positions`.
        streams: The number of streams that the run was set to.
        num_shards: Number of shards of each source.
    """

    positions: Positions
    streams: int
    num_shards: Mapping[str, int]


def start_state(
    dataset: ImageTextPairs,
    num_workers: int,
    saved: Mapping,
    checkpoint: str | None,
) -> tuple[StreamState, list[str]]:
    """Find where a run starts in its shard streams.

    A resumed run keeps the streams of its checkpoint, unless the config sets
    another number of them.

    Args:
        dataset: The data set of the run.
        num_workers: Number of data workers.
        saved: The entry ``data`` of the checkpoint; empty for a new run.
        checkpoint: The file of the checkpoint, for messages.

    Returns:
        The state, and warnings.

    Raises:
        ValueError: The saved positions name sources of other data.
    """
    first = dataset.first_positions(num_workers)
    # before streams existed, a data worker read one
    old = saved.get('streams') or 1
    streams = dataset.streams
    if streams is None and saved.get('streams'):
        streams = old
    streams = streams or default_streams(dataset.world_size)
    state = StreamState(first, streams, dataset.num_shards)
    warnings = []
    if saved.get('positions'):
        _check_sources(state, saved['positions'], checkpoint)
        state.positions = restored_positions(
            saved['positions'], state.num_shards, streams
        )
        warnings += _changed_shards(state, saved.get('shards') or {})
        if dataset.streams not in (None, old):
            state.positions, skipped = moved_positions(state.positions, first)
            warnings.append(_describe_move(old, streams, skipped))
    warnings += _shared_streams(state, num_workers, dataset.world_size)
    return state, warnings


def _check_sources(
    state: StreamState, positions: list[dict], checkpoint: str | None
) -> None:
    named = {name for group in positions for name in group}
    if not named.issubset(state.num_shards):
        raise ValueError(
            f'{checkpoint} cannot be resumed: its data position names the '
            f'sources {sorted(named)}, the config has '
            f'{sorted(state.num_shards)}; start a new run with load_from.'
        )


def _changed_shards(state: StreamState, saved: Mapping[str, int]) -> list[str]:
    return [
        f'source {name!r} has {number} shards and had {saved[name]} when the '
        'checkpoint was saved, so their order is another one: some samples '
        'are read again, others are skipped.'
        for name, number in state.num_shards.items()
        if saved.get(name, number) != number
    ]


def _describe_move(old: int, new: int, skipped: Mapping[str, int]) -> str:
    numbers = ', '.join(f'{n:,} of {name!r}' for name, n in skipped.items())
    return (
        f'{_STREAMS} is {new}, the checkpoint has {old}: each source goes on '
        'with the shard after the last one that was begun. Shards that were '
        f'not read completely and are skipped: {numbers}.'
    )


def _shared_streams(
    state: StreamState, num_workers: int, world_size: int
) -> list[str]:
    """Describe which shards are read several times, and why.

    The samples of the batches are the same; only more bytes are read. This
    is no error: the numbers of ranks and shards may be given.
    """
    groups, workers = len(state.positions), max(num_workers, 1)
    warnings = []
    copies = workers // math.gcd(groups, workers)
    if copies > 1:
        warnings.append(
            f'the run began with {groups} data workers and has {workers}: '
            f'each shard is read by {copies} data workers of a rank; set '
            f'{_WORKERS} to {groups} or a divisor of it, or {_STREAMS} to '
            'another number, which divides the shards again.'
        )
    for name, number in state.num_shards.items():
        streams = len(state.positions[0][name])
        copies = world_size // math.gcd(streams, world_size)
        if copies > 1:
            usable = [n for n in range(1, streams + 1) if streams % n == 0]
            warnings.append(
                f'source {name!r} has {number} shards in {groups * streams} '
                f'streams ({streams} for each of {groups} data workers), '
                f'which {world_size} ranks do not divide: the batches are '
                f'the same, but each shard is read by {copies} ranks; to '
                f'read it once, start {_either(usable)} of them, or set '
                f'{_STREAMS} to a multiple of {world_size} with at least '
                f'{groups * world_size} shards.'
            )
        if number < groups:
            warnings.append(
                f'source {name!r} has {number} shards for {groups} data '
                'workers, which read the same shards in other orders: a '
                'sample is repeated before all others were read; set '
                f'{_WORKERS} to {number} at most, or make more shards.'
            )
    return warnings


def _either(numbers: list[int]) -> str:
    """Numbers as a choice: ``'1, 2 or 4'``."""
    *others, last = map(str, numbers)
    return f'{", ".join(others)} or {last}' if others else last
