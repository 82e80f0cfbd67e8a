# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The samples of stage 1: order, ranks, workers, resuming, errors."""

import io
import os
import tarfile
import time
from collections import Counter
from itertools import islice

import pytest
from PIL import Image
from torch.utils.data import DataLoader

from minigpt4.datasets import (
    CleanCaption,
    ImageTextPairs,
    LoadImages,
    PackSample,
    shard_files,
)
from minigpt4.datasets.shard_source import ShardStream

PIPELINE = [
    dict(type=LoadImages, size=8),
    dict(type=CleanCaption),
    dict(type=PackSample),
]


@pytest.fixture
def shards(tmp_path, write_shard):
    """A source ``a`` of 3 shards x 5 samples and ``b`` of 2 x 4."""
    for source, number, length in (('a', 3, 5), ('b', 2, 4)):
        for i in range(number):
            captions = [f'{source} {i} {j}' for j in range(length)]
            write_shard(tmp_path / source / f'{i:05d}.tar', captions)
    return tmp_path


def one_source(shards, pattern='*.tar', folder='a', **kwargs):
    """Make a dataset of one source and stream, without transforms."""
    settings = dict(batch_size=1, shuffle=3, pipeline=[], streams=1) | kwargs
    source = dict(name=folder, shards=f'{shards}/{folder}/{pattern}', weight=1)
    return ImageTextPairs([source], **settings)


def two_sources(shards, **kwargs):
    settings = dict(batch_size=2, shuffle=3, pipeline=[]) | kwargs
    return ImageTextPairs(
        [
            dict(name='a', shards=f'{shards}/a/*.tar', weight=115),
            dict(name='b', shards=f'{shards}/b/*.tar', weight=14),
        ],
        **settings,
    )


def caption(sample):
    if sample is None:
        return None
    turns = sample['turns'] if isinstance(sample, dict) else sample.turns
    return turns[0].answer


def take(dataset, batches):
    return [
        [caption(sample) for sample in batch]
        for batch in islice(dataset, batches)
    ]


def flat(dataset, samples):
    return sum(take(dataset, samples), [])


ALL_A = sorted(f'a {i} {j}' for i in range(3) for j in range(5))


def test_samples_have_image_caption_and_sample_index(shards):
    sample = next(iter(one_source(shards, pipeline=PIPELINE)))[0]
    assert sample.images[0].shape == (3, 8, 8)
    assert sample.turns[0].question == ''
    name = caption(sample).split()
    assert sample.id.split()[0].endswith(f'a/0000{name[1]}.tar')
    assert sample.id.endswith(f'0000{name[1]}000{name[2]}')
    indices = [
        batch[0]['sample_index'] for batch in islice(one_source(shards), 40)
    ]
    assert len(set(indices)) == 40


@pytest.mark.parametrize('shuffle', [0, 3, 1000])
def test_each_pass_has_every_sample_once(shards, shuffle):
    stream = flat(one_source(shards, shuffle=shuffle), 60)
    passes = [stream[i : i + 15] for i in range(0, 60, 15)]
    assert all(sorted(p) == ALL_A for p in passes)
    assert len({tuple(p) for p in passes}) > 1


def test_order_depends_on_the_seed(shards):
    assert flat(one_source(shards), 30) == flat(one_source(shards), 30)
    assert flat(one_source(shards), 30) != flat(one_source(shards, seed=1), 30)


def test_buffer_shuffles_within_a_shard(shards):
    straight = flat(one_source(shards, shuffle=0), 5)
    assert straight == sorted(straight)
    shuffled = flat(one_source(shards, shuffle=10), 15)
    parts = [shuffled[i : i + 5] for i in (0, 5, 10)]
    assert any(part != sorted(part) for part in parts)


@pytest.mark.parametrize('pattern', ['{00000..00002}.tar', '0*.tar'])
def test_braces_and_wildcards_are_expanded(shards, pattern, log):
    assert sorted(flat(one_source(shards, pattern), 15)) == ALL_A
    assert log == []


def test_list_of_patterns_is_expanded(shards):
    names = [f'{shards}/a/00000.tar', f'{shards}/b/*.tar']
    dataset = ImageTextPairs([dict(name='x', shards=names, weight=1)])
    assert len(dataset.sources[0].shards) == 3


def test_number_of_missing_shards_is_logged(shards, log):
    made = one_source(shards, '{00000..00009}.tar')
    assert '7 of 10' in log[0]
    assert sorted(flat(made, 15)) == ALL_A


@pytest.mark.parametrize('pattern', ['{00005..00009}.tar', 'x*.tar'])
def test_source_without_shards_is_refused(shards, pattern):
    with pytest.raises(FileNotFoundError, match=f'{shards}/a/.*set the path'):
        one_source(shards, pattern)


def test_each_batch_has_one_source_chosen_by_weight(shards):
    batches = take(two_sources(shards), 1500)
    assert all(len({text[0] for text in batch}) == 1 for batch in batches)
    count = Counter(batch[0][0] for batch in batches)
    # 0.8915 with a standard error of 0.008
    assert count['a'] / 1500 == pytest.approx(115 / 129, abs=0.025)


def as_rank(dataset, rank, ranks):
    """Set the rank of a dataset, whose batch size is that of all ranks."""
    dataset.rank, dataset.world_size = rank, ranks
    dataset.batch_size //= ranks
    return dataset


@pytest.mark.parametrize('ranks', [2, 3, 4, 6, 12])
@pytest.mark.parametrize('streams', [1, 2, None])
def test_ranks_split_the_batches_of_one_rank(shards, streams, ranks):
    """Also if the ranks do not divide the streams."""
    settings = dict(batch_size=12, streams=streams)
    alone = two_sources(shards, **settings)
    expected = take(alone, 30)
    parts = []
    for rank in range(ranks):
        dataset = as_rank(two_sources(shards, **settings), rank, ranks)
        dataset.start_at(0, alone.first_positions(1))
        parts.append(take(dataset, 30))
    for batch, *found in zip(expected, *parts, strict=True):
        assert [batch[rank::ranks] for rank in range(ranks)] == found


def test_streams_fit_usual_numbers_of_ranks_and_the_shards(
    tmp_path, write_shard
):
    for name, number in (('a', 17), ('b', 5)):
        for i in range(number):
            write_shard(tmp_path / f'{name}/{i:05d}.tar', ['x'])

    def numbers(workers, ranks=1, **settings):
        dataset = as_rank(two_sources(tmp_path, **settings), 0, ranks)
        found = dataset.first_positions(workers)
        assert len(found) == max(workers, 1)
        return {name: len(positions) for name, positions in found[0].items()}

    for ranks in (1, 2, 4, 8):
        assert numbers(0, ranks) == dict(a=8, b=4)
        assert numbers(2, ranks) == dict(a=8, b=2)
    assert numbers(0, 3) == dict(a=12, b=4)
    assert numbers(1, 16) == dict(a=16, b=4)
    assert numbers(1, 4, streams=6) == dict(a=6, b=3)
    assert numbers(9) == dict(a=1, b=1)


@pytest.mark.parametrize('streams', [0, -1, 2.0, '4', True])
def test_invalid_number_of_streams_is_refused(shards, streams):
    with pytest.raises(ValueError, match='streams is .*multiple of the numb'):
        one_source(shards, streams=streams)


def captions_and_position(batch):
    """Collate function, which runs in the worker."""
    return [caption(sample) for sample in batch], batch.position


def loader(dataset, workers):
    return DataLoader(
        dataset,
        batch_size=None,
        num_workers=workers,
        collate_fn=captions_and_position,
    )


def update(positions, position):
    """Store the position of a batch, as the training loop does."""
    group, sources = position
    for name, found in sources.items():
        for stream, value in found.items():
            positions[group][name][stream] = value


@pytest.mark.parametrize('streams', [1, 2])
@pytest.mark.parametrize('workers', [1, 2, 3])
def test_resumed_stream_has_the_same_samples(shards, workers, streams):
    """With any number of data workers and ranks."""
    settings = dict(batch_size=6, streams=streams)
    whole = two_sources(shards, **settings)
    positions = whole.first_positions(workers)
    expected = list(islice(loader(whole, workers), 24))
    if workers == 1:
        again = two_sources(shards, **settings)
        assert [b for b, _ in expected] == take(again, 24)
    for batch in range(15):
        if batch in (1, 7, 14):
            resumed = two_sources(shards, **settings)
            resumed.start_at(batch, positions)
            got = list(islice(loader(resumed, batch % 4), 24 - batch))
            assert got == expected[batch:]
            for rank in range(3):
                resumed = as_rank(two_sources(shards, **settings), rank, 3)
                resumed.start_at(batch, positions)
                assert take(resumed, 24 - batch) == [
                    b[rank::3] for b, _ in expected[batch:]
                ]
        group, sources = expected[batch][1]
        assert group == batch % workers
        update(positions, (group, sources))


def test_each_rank_and_worker_reads_its_part_of_the_bytes(
    tmp_path, write_shard
):
    for i in range(32):
        captions = [f'{i} {j}' for j in range(4 + i % 5)]
        write_shard(tmp_path / f'a/{i:05d}.tar', captions)
    size = sum(file.stat().st_size for file in tmp_path.glob('a/*.tar'))

    def read(rank, ranks, workers):
        dataset = one_source(tmp_path, batch_size=16, streams=8)
        dataset = as_rank(dataset, rank, ranks)
        batches = islice(iter(loader(dataset, workers)), 24)
        ids = [batch for batch, _ in batches]
        return ids, dataset.bytes_read

    ids, alone = read(0, 1, 0)
    # two passes; a stream of short shards is ahead of the others
    assert 1.5 < alone / size < 3
    for ranks in (2, 4, 8):
        parts = [read(rank, ranks, 0) for rank in range(ranks)]
        assert sum(part for _, part in parts) == alone
        for rank, (found, _) in enumerate(parts):
            assert found == [batch[rank::ranks] for batch in ids]
    parts = [read(rank, 2, 2)[1] for rank in range(2)]
    assert sum(parts) <= 1.3 * alone  # each data worker reads ahead


def dataset_of(shards, write_shard, *samples):
    write_shard(shards / 'c/00000.tar', samples)
    return one_source(shards, folder='c', pipeline=PIPELINE, shuffle=0)


def test_invalid_samples_are_skipped_and_logged(shards, write_shard, log):
    buffer = io.BytesIO()
    Image.new('RGB', (32, 32), 'red').save(buffer, 'JPEG')
    good = buffer.getvalue()
    made = dataset_of(
        shards,
        write_shard,
        dict(jpg=good, txt=b'Only txt.'),
        dict(png=good, json=b'{"caption": "in json"}'),
        dict(jpg=good, json=b'{"caption": null}', txt=b'from txt'),
        dict(jpg=good),
        dict(jpg=good, json=b'{"caption": null}'),
        dict(jpg=good, json=b'{"capt'),
        dict(jpg=good, json=b'[1]'),
        dict(jpg=good, json=b'{"caption": " ... "}'),
        dict(jpg=good[:50], txt=b'half an image'),
        dict(json=b'{"caption": "no image"}'),
    )
    assert flat(made, 10) == ['only txt', 'in json', 'from txt'] + [None] * 7
    assert made.num_skipped == 7 and len(log) == 7
    for line, number, reason in zip(
        log,
        range(3, 10),
        (
            'neither json nor txt',
            'its json has no caption',
            'its json cannot be read',
            'its json cannot be read',
            'is empty',
            'cannot be read as an image',
            'no image (jpg',
        ),
        strict=True,
    ):
        assert f'c/00000.tar 00000000{number}' in line and reason in line


def test_number_of_warnings_is_limited(shards, write_shard, log):
    made = dataset_of(shards, write_shard, *[dict(jpg=b'x')] * 50)
    assert flat(made, 50) == [None] * 50
    assert made.num_skipped == 50 and 10 <= len(log) <= 30


@pytest.mark.parametrize('shuffle', [0, 100])
def test_complete_samples_of_a_truncated_tar_are_read(shards, shuffle, log):
    for path in (shards / 'a').glob('*.tar'):
        path.write_bytes(path.read_bytes()[:6000])
    path.write_bytes(b'')
    made = one_source(shards, pipeline=PIPELINE, shuffle=shuffle)
    stream = flat(made, 12)
    got = {text for text in stream if text is not None}
    assert {text[:3] for text in got} == {'a 0', 'a 1', 'a 2'} - {
        f'a {int(path.stem)}'
    }
    assert {int(text[4]) for text in got} < set(range(5))
    assert any('the rest of a shard is skipped' in line for line in log)


@pytest.mark.parametrize('workers', [0, 2, 5])
def test_source_with_only_empty_shards_ends_the_run(shards, workers):
    for path in (shards / 'a').glob('*.tar'):
        path.write_bytes(b'\0' * 10240)
    with pytest.raises(ValueError, match="none of the 3 shards of 'a' "):
        next(iter(loader(one_source(shards), workers)))


UNUSABLE = {
    'no caption': dict(jpg=b'x', json=b'{}'),
    'another text': dict(png=b'x', cls=b'3'),
    'no image': dict(txt=b'a dog'),
    'no JPEG': dict(jpg=b'x', txt=b'a dog'),
}


@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize('kind', UNUSABLE)
def test_source_without_a_usable_sample_ends_the_run(
    shards, write_shard, kind, workers
):
    for path in (shards / 'a').glob('*.tar'):
        write_shard(path, [UNUSABLE[kind]] * 5)
    made = one_source(shards, pipeline=PIPELINE, batch_size=4)
    message = (
        "no sample of 'a' can be used: [0-9]+ were read from 3 of its 3 "
        'shards, for instance .*a/0000[0-2].tar .*: .* Expected samples of '
        'KEY.jpg'
    )
    with pytest.raises(ValueError, match=message):
        for captions, _ in islice(loader(made, workers), 100):
            assert not any(captions)


@pytest.mark.parametrize('start', [0, 3])
def test_one_usable_sample_is_enough(shards, write_shard, start):
    bad = UNUSABLE['no caption']
    for path in (shards / 'a').glob('*.tar'):
        write_shard(path, [bad] * 5)
    write_shard(shards / 'a/00001.tar', [bad, bad, 'a dog', bad, bad])
    made = one_source(shards, pipeline=PIPELINE)
    made.start_at(start, [dict(a=[(0, start)])])
    found = flat(made, 60 - start)
    assert found.count('a dog') in (3, 4)
    assert found.count(None) == len(found) - found.count('a dog')


def test_the_rest_of_a_shard_after_a_resume_is_no_complete_pass(
    shards, write_shard
):
    bad = UNUSABLE['no caption']
    write_shard(shards / 'a/00000.tar', ['a dog', bad, bad])
    made = one_source(shards, '00000.tar', pipeline=PIPELINE, shuffle=0)
    made.start_at(1, [dict(a=[(0, 1)])])
    assert flat(made, 5) == [None, None, 'a dog', None, None]


@pytest.mark.parametrize('num_workers', [1, 2, 3, 4])
def test_stream_continues_after_some_empty_shards(shards, num_workers):
    """A worker may read the same empty shard several times in a row."""
    paths = sorted((shards / 'a').glob('*.tar'))
    for path in paths[:2]:
        path.write_bytes(b'\0' * 10240)
    for seed in range(20):
        source = one_source(shards, seed=seed).sources[0]
        stream = ShardStream(source, num_workers - 1, num_workers)
        for _ in range(10):
            assert stream.next()['__url__'] == str(paths[2])


def test_errors_are_counted_by_kind_over_all_workers(shards, write_shard, log):
    """The main process reads the counts of its data workers."""
    buffer = io.BytesIO()
    Image.new('RGB', (32, 32), 'red').save(buffer, 'JPEG')
    good = buffer.getvalue()
    for number in range(2):
        path = write_shard(
            shards / f'c/0000{number}.tar',
            [
                dict(jpg=good, txt=b'a dog'),
                dict(jpg=good, json=b'{"caption": "\\ud83d"}'),
                dict(jpg=b'<html>', txt=b'a dog'),
                dict(txt=b'a dog'),
            ],
        )
        data = path.read_bytes()
        path.write_bytes(data + b'garbage')
    made = one_source(shards, folder='c', pipeline=PIPELINE, shuffle=0)
    list(islice(loader(made, 2), 10))
    faults = made.error_counts
    for kind in (
        'sample: caption cannot be used',
        'sample: image cannot be read',
        'sample: image is missing',
        'part of a shard cannot be read',
    ):
        assert faults[kind] >= 2, kind


def test_member_names_cannot_forge_a_log_line(shards, write_shard, log):
    name = '\x1b[31mred\n12/12 - mmengine - INFO - forged'
    with tarfile.open(shards / 'a/00000.tar', 'w') as tar:
        for suffix in ('jpg', 'json', 'jpg'):
            member = tarfile.TarInfo(f'{name}.{suffix}')
            member.size = 2
            tar.addfile(member, io.BytesIO(b'{}'))
    made = one_source(shards, '00000.tar', pipeline=PIPELINE, shuffle=0)
    assert take(made, 1) == [[None]]
    assert log and all(line.isprintable() for line in log)
    assert any(r'\x1b[31mred\n12/12' in line for line in log)


@pytest.mark.parametrize('bad', ['FIFO', 'zeros', 'gone', 'slow'])
@pytest.mark.parametrize('workers', [0, 1])
def test_run_continues_with_the_other_shards(
    shards, log, monkeypatch, bad, workers
):
    path = shards / 'a/00001.tar'
    made = one_source(shards, pipeline=PIPELINE)
    path.unlink()
    if bad == 'FIFO':
        os.mkfifo(path)
    elif bad == 'zeros':
        path.symlink_to('/dev/zero')
    elif bad == 'slow':
        open_regular = shard_files.open_regular
        enter = shard_files.ShardBytes.__enter__

        def slow_open(shard):
            return time.sleep(9) if '00001' in shard else open_regular(shard)

        def enter_with_limit(data):
            # a busy machine may need longer than 0.5 s for the other shards
            seconds = '0.5' if '00001' in data.shard else '60'
            monkeypatch.setenv('MINIGPT4_READ_SECONDS', seconds)
            return enter(data)

        monkeypatch.setattr(shard_files, 'open_regular', slow_open)
        monkeypatch.setattr(
            shard_files.ShardBytes, '__enter__', enter_with_limit
        )
    batches = [b for b, _ in islice(loader(made, workers), 10)]
    assert {b[0][:3] for b in batches} == {'a 0', 'a 2'}
    if not workers:
        lines = [line for line in log if 'the rest of a shard is' in line]
        assert lines and all('00001.tar' in line for line in lines)
        assert 'cannot be read' in lines[0]


@pytest.mark.parametrize('sources', ['[dict(name="a"', ['a.tar'], [3]])
def test_sources_that_are_no_dicts_are_refused(sources):
    """A list of dicts on the command line arrives as text."""
    with pytest.raises(ValueError, match='expected dicts of name, shards'):
        ImageTextPairs(sources)


@pytest.mark.parametrize('weight', [0, -1, 'x', None, True, float('nan')])
def test_invalid_weight_is_refused(shards, weight):
    source = dict(name='a', shards=f'{shards}/a/*.tar', weight=weight)
    with pytest.raises(ValueError, match="weight of source 'a' is"):
        ImageTextPairs([source])


def test_source_names_must_be_unique(shards):
    source = dict(name='a', shards=f'{shards}/a/*.tar', weight=1)
    with pytest.raises(ValueError, match="several sources have the name 'a'"):
        ImageTextPairs([source, dict(source)])
    with pytest.raises(ValueError, match='sources is empty'):
        ImageTextPairs([])


@pytest.mark.parametrize('size', ['100', 0, -1, None, float('nan')])
def test_invalid_size_of_the_cache_is_refused(shards, size, tmp_path):
    with pytest.raises(ValueError, match='cache_gb is .* a number above 0'):
        one_source(shards, cache_dir=tmp_path / 'cache', cache_gb=size)
    assert not (tmp_path / 'cache').exists()
