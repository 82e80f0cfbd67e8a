# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The endless stream of stage 1: order, ranks, workers, resuming, faults."""

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
    image_text_pairs,
    shard_files,
)

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


def one(shards, pattern='*.tar', folder='a', **kwargs):
    """A dataset of one source; captions alone, unless told."""
    settings = dict(batch_size=1, shuffle=3, pipeline=[]) | kwargs
    source = dict(name=folder, shards=f'{shards}/{folder}/{pattern}', weight=1)
    return ImageTextPairs([source], **settings)


def both(shards, **kwargs):
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


def test_samples_hold_image_caption_and_place(shards):
    sample = next(iter(one(shards, pipeline=PIPELINE)))[0]
    assert sample.images[0].shape == (3, 8, 8)
    assert sample.turns[0].question == ''
    name = caption(sample).split()
    assert sample.id.split()[0].endswith(f'a/0000{name[1]}.tar')
    assert sample.id.endswith(f'0000{name[1]}000{name[2]}')
    places = [batch[0]['draw'] for batch in islice(one(shards), 40)]
    assert len(set(places)) == 40


@pytest.mark.parametrize('shuffle', [0, 3, 1000])
def test_every_sample_comes_before_any_comes_again(shards, shuffle):
    stream = flat(one(shards, shuffle=shuffle), 60)
    passes = [stream[i : i + 15] for i in range(0, 60, 15)]
    assert all(sorted(p) == ALL_A for p in passes)
    assert len({tuple(p) for p in passes}) > 1


def test_order_comes_of_the_seed(shards):
    assert flat(one(shards), 30) == flat(one(shards), 30)
    assert flat(one(shards), 30) != flat(one(shards, seed=1), 30)


def test_buffer_shuffles_within_a_shard(shards):
    straight = flat(one(shards, shuffle=0), 5)
    assert straight == sorted(straight)
    shuffled = flat(one(shards, shuffle=10), 15)
    parts = [shuffled[i : i + 5] for i in (0, 5, 10)]
    assert any(part != sorted(part) for part in parts)


@pytest.mark.parametrize('pattern', ['{00000..00002}.tar', '0*.tar'])
def test_braces_and_wildcards(shards, pattern, log):
    assert sorted(flat(one(shards, pattern), 15)) == ALL_A
    assert log == []


def test_list_of_patterns(shards):
    names = [f'{shards}/a/00000.tar', f'{shards}/b/*.tar']
    dataset = ImageTextPairs([dict(name='x', shards=names, weight=1)])
    assert len(dataset.sources[0].shards) == 3


def test_missing_shards_are_counted(shards, log):
    made = one(shards, '{00000..00009}.tar')
    assert '7 of 10' in log[0]
    assert sorted(flat(made, 15)) == ALL_A


@pytest.mark.parametrize('pattern', ['{00005..00009}.tar', 'x*.tar'])
def test_no_shard_at_all(shards, pattern):
    with pytest.raises(FileNotFoundError, match=f'{shards}/a/.*set the path'):
        one(shards, pattern)


def test_a_batch_is_of_one_source_by_weight(shards):
    batches = take(both(shards), 1500)
    assert all(len({text[0] for text in batch}) == 1 for batch in batches)
    count = Counter(batch[0][0] for batch in batches)
    # 0.8915 with a standard error of 0.008
    assert count['a'] / 1500 == pytest.approx(115 / 129, abs=0.025)


def test_ranks_share_the_batches_of_one(shards, monkeypatch):
    whole = take(both(shards, batch_size=6), 50)
    ranks = []
    for rank in range(2):
        monkeypatch.setattr(
            image_text_pairs, 'get_dist_info', lambda r=rank: (r, 2)
        )
        ranks.append(take(both(shards, batch_size=3), 50))
    for batch, *parts in zip(whole, *ranks, strict=True):
        assert [len(part) for part in parts] == [3, 3]
        assert sorted(sum(parts, [])) == sorted(batch)
    assert [b[0] for b in whole] == [b[0] for b in ranks[0]]


def keep(batch):
    """Collate function, in the worker."""
    return [caption(sample) for sample in batch], batch.position


def loader(dataset, workers):
    return DataLoader(
        dataset, batch_size=None, num_workers=workers, collate_fn=keep
    )


@pytest.mark.parametrize('workers', [1, 2, 3])
def test_resumed_stream_is_the_same(shards, workers):
    whole = list(islice(loader(both(shards), workers), 24))
    if workers == 1:
        assert [b for b, _ in whole] == take(both(shards), 24)
    positions = [{} for _ in range(workers)]
    for batch in range(15):
        if batch in (1, 7, 12, 14):
            resumed = both(shards)
            resumed.start_at(batch, [dict(p) for p in positions])
            got = list(islice(loader(resumed, workers), 24 - batch))
            assert got == whole[batch:]
        lane, place = whole[batch][1]
        assert lane == batch % workers
        positions[lane] = place


def test_other_number_of_workers_is_refused(shards):
    resumed = both(shards)
    resumed.start_at(4, [{}, {}])
    with pytest.raises(ValueError, match='num_workers=2 to read the same'):
        next(iter(resumed))
    with pytest.raises(ValueError, match='with 2 data workers and goes on'):
        next(iter(loader(resumed, 3)))


def faulty(shards, write_shard, *samples):
    write_shard(shards / 'c/00000.tar', samples)
    return one(shards, folder='c', pipeline=PIPELINE, shuffle=0)


def test_bad_samples_are_skipped_counted_and_named(shards, write_shard, log):
    buffer = io.BytesIO()
    Image.new('RGB', (32, 32), 'red').save(buffer, 'JPEG')
    good = buffer.getvalue()
    made = faulty(
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
    assert made.bad == 7 and len(log) == 7
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


def test_warnings_do_not_flood_the_log(shards, write_shard, log):
    made = faulty(shards, write_shard, *[dict(jpg=b'x')] * 50)
    assert flat(made, 50) == [None] * 50
    assert made.bad == 50 and 10 <= len(log) <= 30


@pytest.mark.parametrize('shuffle', [0, 100])
def test_truncated_tar_gives_what_is_whole(shards, shuffle, log):
    for path in (shards / 'a').glob('*.tar'):
        path.write_bytes(path.read_bytes()[:6000])
    path.write_bytes(b'')
    made = one(shards, pipeline=PIPELINE, shuffle=shuffle)
    stream = flat(made, 12)
    got = {text for text in stream if text is not None}
    assert {text[:3] for text in got} == {'a 0', 'a 1', 'a 2'} - {
        f'a {int(path.stem)}'
    }
    assert {int(text[4]) for text in got} < set(range(5))
    assert any('the rest of a shard is skipped' in line for line in log)


@pytest.mark.parametrize('workers', [0, 2, 5])
def test_barren_shards_end_the_run(shards, workers):
    for path in (shards / 'a').glob('*.tar'):
        path.write_bytes(b'\0' * 10240)
    with pytest.raises(ValueError, match="none of the 3 shards of 'a' holds"):
        next(iter(loader(one(shards), workers)))


@pytest.mark.parametrize('lanes', [1, 2, 3, 4])
def test_some_barren_shards_do_not(shards, lanes):
    """A lane may draw the same barren shard several times in a row."""
    paths = sorted((shards / 'a').glob('*.tar'))
    for path in paths[:2]:
        path.write_bytes(b'\0' * 10240)
    for seed in range(20):
        source = one(shards, seed=seed).sources[0]
        stream = image_text_pairs._Stream(source, lanes - 1, lanes, (0, 0))
        for _ in range(10):
            assert stream.next()['__url__'] == str(paths[2])


def test_faults_are_counted_by_kind_over_all_workers(shards, write_shard, log):
    """The main process knows what its data workers skipped."""
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
    made = one(shards, folder='c', pipeline=PIPELINE, shuffle=0)
    list(islice(loader(made, 2), 10))
    faults = made.faults
    for kind in (
        'sample: caption cannot be used',
        'sample: image cannot be read',
        'sample: image is missing',
        'part of a shard cannot be read',
    ):
        assert faults[kind] >= 2, kind


def test_a_line_of_the_log_cannot_be_forged(shards, write_shard, log):
    name = '\x1b[31mred\n12/12 - mmengine - INFO - forged'
    with tarfile.open(shards / 'a/00000.tar', 'w') as tar:
        for suffix in ('jpg', 'json', 'jpg'):
            member = tarfile.TarInfo(f'{name}.{suffix}')
            member.size = 2
            tar.addfile(member, io.BytesIO(b'{}'))
    made = one(shards, '00000.tar', pipeline=PIPELINE, shuffle=0)
    assert take(made, 2) == [[None], [None]]
    assert log and all(line.isprintable() for line in log)
    assert any(r'\x1b[31mred\n12/12' in line for line in log)


@pytest.mark.parametrize('bad', ['FIFO', 'zeros', 'gone', 'slow'])
@pytest.mark.parametrize('workers', [0, 1])
def test_the_run_goes_on_with_the_other_shards(
    shards, log, monkeypatch, bad, workers
):
    path = shards / 'a/00001.tar'
    made = one(shards, pipeline=PIPELINE)
    path.unlink()
    if bad == 'FIFO':
        os.mkfifo(path)
    elif bad == 'zeros':
        path.symlink_to('/dev/zero')
    elif bad == 'slow':
        monkeypatch.setenv('MINIGPT4_READ_SECONDS', '0.5')
        really = shard_files.open_regular
        monkeypatch.setattr(
            shard_files,
            'open_regular',
            lambda p: time.sleep(9) if '00001' in p else really(p),
        )
    batches = [b for b, _ in islice(loader(made, workers), 10)]
    assert {b[0][:3] for b in batches} == {'a 0', 'a 2'}
    if not workers:
        lines = [line for line in log if 'the rest of a shard is' in line]
        assert lines and all('00001.tar' in line for line in lines)
        assert 'cannot be read' in lines[0]


@pytest.mark.parametrize('weight', [0, -1, 'x', None, True, float('nan')])
def test_a_weight_that_cannot_be_drawn_by_is_refused(shards, weight):
    source = dict(name='a', shards=f'{shards}/a/*.tar', weight=weight)
    with pytest.raises(ValueError, match="weight of source 'a' is"):
        ImageTextPairs([source])


def test_sources_need_names_of_their_own(shards):
    source = dict(name='a', shards=f'{shards}/a/*.tar', weight=1)
    with pytest.raises(ValueError, match="several sources have the name 'a'"):
        ImageTextPairs([source, dict(source)])
    with pytest.raises(ValueError, match='sources is empty'):
        ImageTextPairs([])
