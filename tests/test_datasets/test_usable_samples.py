# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""After how many shards without a usable sample a run ends."""

import pytest

from minigpt4.datasets.shard_source import ShardStream, Source
from minigpt4.datasets.usable_samples import UsableSamples

BAD = dict(txt=b'a dog')


def read(source, processes, usable_at=None):
    """Read until the run ends; return the number of shards."""
    usable = UsableSamples(source, processes)
    stream = ShardStream(source, 0, 1)
    for number in range(3 * len(source.shards)):
        before = stream.num_shards
        usable.add(stream.next(), number == usable_at)
        if usable.is_proven:
            return 'proven'
        usable.finish(stream, before)
    return 'endless'


@pytest.mark.parametrize(
    ('shards', 'processes', 'expected'),
    [(3, 1, 3), (3, 8, 3), (120, 8, 100), (240, 2, 120)],
)
def test_the_number_of_shards(
    tmp_path, write_shard, shards, processes, expected
):
    for number in range(shards):
        write_shard(tmp_path / f'{number:05d}.tar', [BAD])
    source = Source('a', f'{tmp_path}/*.tar', 1, seed=0, shuffle=0)
    message = f'were read from {expected} of its {shards} shards'
    with pytest.raises(ValueError, match=message):
        read(source, processes)
    assert read(source, processes, usable_at=1) == 'proven'


def test_shards_that_were_given_up_do_not_count(tmp_path, write_shard):
    write_shard(tmp_path / '0.tar', [BAD])
    gone = write_shard(tmp_path / '1.tar', [BAD])
    source = Source('a', f'{tmp_path}/*.tar', 1, seed=0, shuffle=0)
    gone.unlink()
    assert read(source, 1) == 'endless'
