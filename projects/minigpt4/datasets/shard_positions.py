# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Positions in the shard streams of a stage-1 run: new, restored, moved.

The shards of a source are dealt to *streams*. Batch ``i`` is read from the
streams of group ``i % groups``; a data worker reads complete groups. Sample
``j`` of a group is read from its stream ``j % streams``, and belongs to rank
``j % world_size``: so a rank reads only a part of the streams, and the
samples of a batch do not depend on the number of ranks.

A position is how many shards of a stream were read completely, and how many
samples of its current shard. The positions of a run are a list over groups
of the positions of each stream by the name of the source.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

Position = tuple[int, int]
Positions = list[dict[str, list[Position]]]

_USUAL_RANKS = 8  # 1, 2, 4 and 8 ranks divide it


def default_streams(world_size: int) -> int:
    """The smallest multiple of the number of ranks that 8 divides too."""
    return math.lcm(_USUAL_RANKS, world_size)


def streams_of(num_shards: int, groups: int, streams: int) -> int:
    """Number of streams of a source in a group.

    Args:
        num_shards: Shards of the source.
        groups: Number of groups.
        streams: The number of streams that the config sets.

    Returns:
        The largest divisor of ``streams`` with which each stream has a
        shard; 1 if there are fewer shards than groups.
    """
    most = min(max(num_shards // groups, 1), streams)
    return max(n for n in range(1, most + 1) if streams % n == 0)


def first_positions(
    num_shards: Mapping[str, int], groups: int, streams: int
) -> Positions:
    """The positions of a run that begins.

    Args:
        num_shards: Shards of each source.
        groups: Number of groups: that of the data workers, at least 1.
        streams: The number of streams that the config sets.
    """
    return [
        {
            name: [(0, 0)] * streams_of(number, groups, streams)
            for name, number in num_shards.items()
        }
        for _ in range(groups)
    ]


def restored_positions(
    saved: Sequence[Mapping], num_shards: Mapping[str, int], streams: int
) -> Positions:
    """The positions that a checkpoint contains, completed.

    Args:
        saved: Those of the checkpoint. Before streams existed, a data worker
            had one position for each source: this is one stream.
        num_shards: Shards of each source of the config.
        streams: The number of streams, for a source that was not read yet.
    """
    restored = first_positions(num_shards, len(saved), streams)
    listed = [
        {name: _as_list(value) for name, value in group.items()}
        for group in saved
    ]
    for name in num_shards:
        lengths = {len(group[name]) for group in listed if name in group}
        for group, own in zip(listed, restored, strict=True):
            unread = [(0, 0)] * max(lengths, default=len(own[name]))
            own[name] = group.get(name, unread)
    return restored


def moved_positions(
    saved: Positions, first: Positions
) -> tuple[Positions, dict[str, int]]:
    """Move a run to another number of streams, without repeated samples.

    The new streams of a source begin with the shard after the last one that
    any stream has begun. What is unread of the shards before it is skipped.

    Args:
        saved: Positions with the old number of streams.
        first: :func:`first_positions` of the new number.

    Returns:
        The new positions, and by source how many shards are skipped, some
        of them in part.
    """
    moved: Positions = [{} for _ in first]
    skipped = {}
    for name in first[0]:
        old = [position for group in saved for position in group[name]]
        begin = max(
            _next_shard(stream, position, len(old))
            for stream, position in enumerate(old)
        )
        skipped[name] = begin - sum(shards for shards, _ in old)
        streams = len(first[0][name])
        number = len(first) * streams
        for index, group in enumerate(moved):
            group[name] = [
                (max(-((stream - begin) // number), 0), 0)
                for stream in range(index * streams, (index + 1) * streams)
            ]
    return moved, skipped


def merged_positions(parts: Iterable[Positions]) -> Positions:
    """The positions of all streams, from those that each rank knows.

    A rank reads a part of the streams, and so has old positions of the
    others; positions only grow. Those that the loader has pinned are lists
    with torch 2.6, which cannot be compared with tuples.
    """
    return [
        {
            name: [
                max((shards, samples) for shards, samples in found)
                for found in zip(*(g[name] for g in groups))
            ]
            for name in groups[0]
        }
        for groups in zip(*parts)
    ]


def are_positions(value: object) -> bool:
    """Whether this is a list of positions as a checkpoint contains them."""
    if not isinstance(value, list):
        return False
    lengths: dict[str, int] = {}
    for group in value:
        if not isinstance(group, Mapping):
            return False
        for name, found in group.items():
            if not (isinstance(found, (list, tuple)) and found):
                return False
            positions = _as_list(found)
            if lengths.setdefault(name, len(positions)) != len(positions):
                return False
            if not all(map(_is_position, positions)):
                return False
    return all(isinstance(name, str) for name in lengths)


def _is_position(value: object) -> bool:
    return (
        isinstance(value, tuple)
        and len(value) == 2
        and all(type(number) is int and number >= 0 for number in value)
    )


def _as_list(value: Sequence) -> list[Position]:
    """A list of positions; one position alone is that of one stream."""
    if any(isinstance(item, (list, tuple)) for item in value):
        return [
            tuple(item) if isinstance(item, list) else item for item in value
        ]
    return [tuple(value)]


def _next_shard(stream: int, position: Position, number: int) -> int:
    """Index of the shard after the last one that a stream has begun.

    The shards of stream ``s`` of ``n`` have the indices ``s``, ``s + n`` ...
    in the order of the source.
    """
    shards, samples = position
    begun = shards + (samples > 0)
    return stream + (begun - 1) * number + 1 if begun else 0
