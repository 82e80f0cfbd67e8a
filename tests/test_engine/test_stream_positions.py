# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Where a run starts in its shard streams, and what it warns of."""

import re
from types import SimpleNamespace

import pytest

from minigpt4.datasets import ImageTextPairs
from minigpt4.engine.stream_positions import start_state


@pytest.fixture
def make(tmp_path):
    """Function of a number of shards and ranks to a data set."""

    def make(number, ranks=1, **settings):
        for i in range(number):
            path = tmp_path / f'{number}/{i:05d}.tar'
            path.parent.mkdir(exist_ok=True)
            path.touch()
        source = dict(name='a', shards=f'{tmp_path}/{number}/*.tar', weight=1)
        dataset = ImageTextPairs([source], **settings)
        dataset.world_size = ranks
        return dataset

    return make


def saved(state):
    """The entry of a checkpoint."""
    return dict(
        positions=state.positions,
        streams=state.streams,
        shards=dict(state.num_shards),
    )


def test_new_run_has_no_warning(make):
    state, warnings = start_state(make(40, ranks=4), 4, {}, None)
    assert state.positions == [{'a': [(0, 0)] * 8}] * 4
    assert (state.streams, state.num_shards) == (8, {'a': 40})
    assert not warnings


@pytest.mark.parametrize('ranks', [1, 2, 4, 8])
@pytest.mark.parametrize('workers', [1, 2, 4])
def test_resumed_run_keeps_its_streams(make, ranks, workers):
    state, _ = start_state(make(40), 4, {}, None)
    state.positions[2]['a'][3] = (5, 6)
    for streams in (None, 8):
        dataset = make(40, ranks, streams=streams)
        resumed, warnings = start_state(dataset, workers, saved(state), 'x')
        assert resumed == state and not warnings


def test_other_ranks_and_workers_are_warned_of(make):
    state, _ = start_state(make(40), 4, {}, None)
    resumed, warnings = start_state(make(40, 16), 6, saved(state), 'x')
    assert resumed == state
    workers, ranks = warnings
    assert (
        'began with 4 data workers and has 6: each shard is read by 3'
    ) in workers
    assert 'num_workers to 4 or a divisor' in workers
    assert '40 shards in 32 streams (8 for each of 4 data' in ranks
    assert 'which 16 ranks do not divide: the batches are the same' in ranks
    assert 'each shard is read by 2 ranks' in ranks
    assert 'start 1, 2, 4 or 8 of them' in ranks
    assert 'to a multiple of 16 with at least 64 shards' in ranks


@pytest.mark.parametrize('ranks', [3, 6, 16])
@pytest.mark.parametrize('streams', [1, 8, 12])
def test_what_the_warning_says_ends_it(make, ranks, streams):
    """Each number of ranks that it names, and the streams and shards."""
    state, _ = start_state(make(40, streams=streams), 2, {}, None)
    _, warnings = start_state(make(40, ranks), 2, saved(state), 'x')
    if not warnings:
        assert streams % ranks == 0
        return
    (warning,) = warnings
    listed = re.search(r'start (.*) of them, or set', warning)[1]
    numbers = [int(number) for number in re.findall(r'\d+', listed)]
    assert numbers == [n for n in range(1, 41) if streams % n == 0]
    for number in numbers:
        _, none = start_state(make(40, number), 2, saved(state), 'x')
        assert not none
    least = int(re.search(r'at least (\d+) shards', warning)[1])
    assert start_state(make(least, ranks, streams=ranks), 2, {}, None)[1] == []


def test_few_shards_are_warned_of(make):
    state, warnings = start_state(make(3, ranks=4), 2, {}, None)
    assert state.positions == [{'a': [(0, 0)]}] * 2
    (warning,) = warnings
    assert "'a' has 3 shards in 2 streams" in warning
    assert 'each shard is read by 4 ranks' in warning
    assert 'start 1 of them' in warning
    assert 'with at least 8 shards' in warning
    _, (warning,) = start_state(make(1), 4, {}, None)
    assert "'a' has 1 shards for 4 data workers" in warning
    assert 'num_workers to 1 at most' in warning


def test_checkpoint_of_0_1_is_resumed_with_one_stream(make):
    old = dict(positions=[{'a': (3, 7)}, {'a': (2, 1)}])
    state, (warning,) = start_state(make(40, 4), 2, old, 'x')
    assert state.positions == [{'a': [(3, 7)]}, {'a': [(2, 1)]}]
    assert 'each shard is read by 4 ranks' in warning
    assert 'streams to a multiple of 4' in warning


def test_another_number_of_streams_moves_the_run(make):
    old = dict(positions=[{'a': (3, 7)}, {'a': (2, 1)}])
    dataset = make(40, 4, streams=4)
    state, (warning,) = start_state(dataset, 4, old, 'x')
    # shards 0 to 4 are read, 5 and 6 begun
    assert state.streams == 4
    positions = [group['a'] for group in state.positions]
    flat = [position for group in positions for position in group]
    assert flat == [(1, 0)] * 7 + [(0, 0)] * 9
    assert 'streams is 4, the checkpoint has 1' in warning
    assert "skipped: 2 of 'a'" in warning
    again, warnings = start_state(dataset, 4, saved(state), 'x')
    assert again == state and not warnings


def test_other_number_of_shards_is_warned_of(make):
    state, _ = start_state(make(40), 1, {}, None)
    _, (warning,) = start_state(make(39), 1, saved(state), 'x')
    assert "'a' has 39 shards and had 40" in warning


def test_positions_of_other_sources_are_refused(make):
    state = SimpleNamespace(
        positions=[{'z': [(0, 0)]}], streams=1, num_shards={'z': 4}
    )
    with pytest.raises(ValueError, match=r"x cannot be .* \['z'\], the .*'a'"):
        start_state(make(40), 1, saved(state), 'x')
