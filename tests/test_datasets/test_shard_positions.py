# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Positions in shard streams: new, restored, moved, merged, validated."""

import random

import pytest

from minigpt4.datasets.shard_positions import (
    are_positions,
    default_streams,
    first_positions,
    merged_positions,
    moved_positions,
    restored_positions,
    streams_of,
)


@pytest.mark.parametrize(
    ('ranks', 'streams'), [(1, 8), (4, 8), (8, 8), (3, 24), (12, 24), (64, 64)]
)
def test_default_number_is_a_multiple_of_eight_and_of_the_ranks(
    ranks, streams
):
    assert default_streams(ranks) == streams


@pytest.mark.parametrize(
    ('shards', 'groups', 'streams', 'number'),
    [
        (100, 4, 8, 8),
        (32, 4, 8, 8),
        (31, 4, 8, 4),
        (11, 1, 12, 6),
        (3, 4, 8, 1),
        (1, 1, 8, 1),
        (10**6, 1, 7, 7),
    ],
)
def test_each_stream_has_a_shard(shards, groups, streams, number):
    assert streams_of(shards, groups, streams) == number


def test_positions_of_version_0_1_are_those_of_one_stream():
    saved = [{'a': (3, 7), 'b': (0, 2)}, {'a': (2, 1)}, {}]
    assert restored_positions(saved, dict(a=9, b=9, c=9), 2) == [
        {'a': [(3, 7)], 'b': [(0, 2)], 'c': [(0, 0)] * 2},
        {'a': [(2, 1)], 'b': [(0, 0)], 'c': [(0, 0)] * 2},
        {'a': [(0, 0)], 'b': [(0, 0)], 'c': [(0, 0)] * 2},
    ]


def test_saved_positions_keep_their_number_of_streams():
    saved = [{'a': [(3, 7), (1, 0)]}, {'a': [(2, 1), (0, 0)]}]
    assert restored_positions(saved, dict(a=1), 8) == saved


def indices(positions, name):
    """Index of the next shard of each stream, in the order of the source."""
    streams = [position for group in positions for position in group[name]]
    return [
        number + shards * len(streams)
        for number, (shards, _) in enumerate(streams)
    ]


@pytest.mark.parametrize('groups', [1, 2, 5])
@pytest.mark.parametrize('streams', [1, 4, 6])
def test_moved_streams_begin_after_all_shards_that_were_begun(groups, streams):
    """The shards from there on are dealt without a gap or a repeat."""
    draw = random.Random(groups * 10 + streams)
    for _ in range(50):
        old = [
            {
                name: [
                    (draw.randrange(5), draw.randrange(3)) for _ in range(size)
                ]
                for name, size in (('a', 3), ('b', 1))
            }
            for _ in range(2)
        ]
        first = first_positions(dict(a=100, b=100), groups, streams)
        moved, skipped = moved_positions(old, first)
        for name in ('a', 'b'):
            listed = [position for group in old for position in group[name]]
            read = {
                number + shard * len(listed)
                for number, (shards, samples) in enumerate(listed)
                for shard in range(shards + (samples > 0))
            }
            begin = max(read, default=-1) + 1
            number = groups * len(first[0][name])
            assert sorted(indices(moved, name)) == [
                *range(begin, begin + number)
            ]
            complete = sum(shards for shards, _ in listed)
            assert skipped[name] == begin - complete
        assert are_positions(moved)


def test_a_run_without_a_step_is_moved_to_its_beginning():
    first = first_positions(dict(a=40), 2, 4)
    assert moved_positions(first_positions(dict(a=9), 3, 1), first) == (
        first,
        {'a': 0},
    )


def test_merged_positions_are_the_newest_of_each_stream():
    start = [(4, 2), (3, 0), (0, 9)]
    parts = [
        [{'a': [(4, 8), (3, 0), (0, 9)]}],
        [{'a': [(4, 2), (3, 1), (0, 9)]}],
        [{'a': [(4, 2), (3, 0), (1, 0)]}],
    ]
    assert merged_positions(parts) == [{'a': [(4, 8), (3, 1), (1, 0)]}]
    assert merged_positions([[{'a': start}]]) == [{'a': start}]
    parts[1][0]['a'][1] = [3, 1]  # pinned by torch 2.6
    assert merged_positions(parts) == [{'a': [(4, 8), (3, 1), (1, 0)]}]


@pytest.mark.parametrize(
    ('value', 'is_valid'),
    [
        ([], True),
        ([{}], True),
        ([{'a': (0, 1)}], True),
        ([{'a': [0, 1]}], True),
        ([{'a': [(0, 1), [2, 3]]}], True),
        ([{'a': [(0, 1)]}, {'a': [(0, 1)]}, {}], True),
        ([{'a': [(0, 1)]}, {'a': [(0, 1), (0, 1)]}], False),
        ([{'a': []}], False),
        ([{'a': (0, -1)}], False),
        ([{'a': (0, 1.0)}], False),
        ([{'a': (True, 1)}], False),
        ([{'a': [(0, 1, 2)]}], False),
        ([{'a': [(0, 1), 2]}], False),
        ([{3: (0, 1)}], False),
        ([3], False),
        ('x', False),
        ({}, False),
    ],
)
def test_only_positions_of_a_checkpoint_are_accepted(value, is_valid):
    assert are_positions(value) == is_valid
