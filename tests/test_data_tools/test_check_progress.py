# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""A check that is stopped or killed continues to the same report."""

import json
import multiprocessing
import os
import random
import re
import shutil
import signal
from itertools import count
from pathlib import Path

import pytest
from tests.data_sets import jpeg, noise, pair, write_shard

from minigpt4.data_tools import check_progress, data_items, scan
from minigpt4_cli.main import main

PROGRESS = 'check/.check/progress.sqlite'


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch):
    """Shards, records, photographs and images with faults; pieces of 3."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(data_items, 'PIECE_RECORDS', 3)
    for number in range(6):
        # images and texts are repeated in other shards
        samples = {
            f'{number}{i}': pair(i * number % 9, f'a dog {i * number % 7}')
            for i in range(5)
        }
        samples['x'] = dict(jpg=b'no image', txt=b'a cat')
        samples['y'] = dict(jpg=jpeg(noise(number)))
        suffix = 'tar.gz' if number == 4 else 'tar'
        write_shard(Path(f'web/{number:05d}.{suffix}'), samples)
    write_shard(Path('web/00006.tar'), {})
    damaged = Path('web/00002.tar')
    damaged.write_bytes(damaged.read_bytes()[:-6000])
    Path('set/image').mkdir(parents=True)
    for i in range(4):
        Path(f'set/image/{i}.jpg').write_bytes(jpeg(noise(i)))
    records = [dict(image_id=i % 5, caption=f'a tree {i}') for i in range(11)]
    Path('set/filter_cap.json').write_text(json.dumps(records))
    Path('photos').mkdir()
    for i in range(7):
        Path(f'photos/{i}.jpg').write_bytes(jpeg(noise(20 + i)))
        Path(f'photos/{i}.txt').write_text('a bird' if i else '')
    Path('plain').mkdir()
    for i in range(6):
        Path(f'plain/{i}.jpg').write_bytes(jpeg(noise(i)))


def check(*words):
    sources = ('web', 'set', 'photos', '--against', 'plain', '--near', 0)
    command = ('data', 'check', *sources, '--workers', 2, '-o', *words)
    return main(list(map(str, command)))


def killed(calls):
    """Run in a child that is killed when it reads an image; its status."""

    def run():
        numbers, measure = count(1), scan.measure_image

        def measure_or_end(*args):
            if next(numbers) == calls:
                os.kill(os.getpid(), signal.SIGKILL)
            return measure(*args)

        scan.measure_image = measure_or_end
        os._exit(check('check', '-q'))

    child = multiprocessing.get_context('fork').Process(target=run)
    child.start()
    child.join(500)
    return child.exitcode


def report(folder):
    """What a check wrote, without times."""
    found = {
        path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())
    }
    for name in ('manifest.json', 'summary.json', 'report.html'):
        for pattern, same in (
            (rb'\d{4}-\d\d-\d\dT[\d:+]+', b''),
            (rb'"seconds": [\d.]+', b'"seconds": 0'),
            (rb'[\d.]+ s\b', b''),
        ):
            found[name] = re.sub(pattern, same, found[name])
    return found


def test_killed_checks_continue_to_the_same_files(capsys):
    assert check('whole', '-q') == 1
    expected = report('whole')
    kinds = json.loads(expected['summary.json'])['problems']
    named = ('unreadable', 'invalid', 'damaged', 'overlap', 'skipped')
    assert all(kinds[kind]['count'] for kind in named), kinds
    rng = random.Random(3)
    for _ in range(2):
        kills = 0
        while (status := killed(rng.randint(3, 15))) == -signal.SIGKILL:
            kills += 1
        assert status == 1
        assert kills >= 3
        assert report('check') == expected
        shutil.rmtree('check')


def test_a_stopped_check_says_that_it_continues(capsys, monkeypatch):
    assert check('whole', '-q') == 1
    numbers, measure = count(1), scan.measure_image

    def measure_and_stop(*args):
        if next(numbers) == 20:
            os.kill(os.getpid(), signal.SIGINT)
        return measure(*args)

    monkeypatch.setattr(scan, 'measure_image', measure_and_stop)
    assert check('check') == 130
    assert 'The same command continues from there' in capsys.readouterr().err
    assert not json.loads(Path('check/summary.json').read_text())['complete']
    read = []
    monkeypatch.setattr(
        scan, 'measure_image', lambda *args: read.append(1) or measure(*args)
    )
    assert check('check') == 1
    assert 'continues a check that was stopped, whose' in (
        capsys.readouterr().err
    )
    images = json.loads(Path('whole/summary.json').read_text())['images']
    assert 0 < len(read) < images
    assert report('check') == report('whole')


def change_a_shard():
    write_shard(Path('web/00000.tar'), {'a': pair(3, 'a')})


def change_an_image():
    Path('set/image/1.jpg').write_bytes(jpeg(noise(30)))


def change_records():
    Path('set/filter_cap.json').write_text('[{"image_id": 1, "caption": "a"}]')


def damage_the_progress():
    Path(PROGRESS).write_bytes(b'no database' * 999)
    for suffix in ('-wal', '-shm'):
        Path(PROGRESS + suffix).unlink(missing_ok=True)


@pytest.mark.parametrize(
    'change',
    [change_a_shard, change_an_image, change_records, damage_the_progress],
)
def test_other_data_are_read_again(capsys, change):
    assert killed(45) == -signal.SIGKILL
    assert Path(PROGRESS).exists()
    change()
    assert check('check') == check('whole', '-q') == 1
    if change is not damage_the_progress:
        assert 'have changed since the check' in capsys.readouterr().err
    assert report('check') == report('whole')


def test_other_options_begin_again(capsys):
    assert killed(30) == -signal.SIGKILL
    assert check('check', '--images', 'plain') == 1
    assert 'have changed since the check' in capsys.readouterr().err
    assert check('whole', '--images', 'plain', '-q') == 1
    assert report('check') == report('whole')


def test_a_stop_keeps_the_digests(monkeypatch):
    numbers, compute = count(1), check_progress.compute_digest
    read = []

    def stop_and_compute(path):
        read.append(path)
        if next(numbers) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return compute(path)

    monkeypatch.setattr(check_progress, 'compute_digest', stop_and_compute)
    assert check('check', '-q') == 130
    assert not Path('check/manifest.json').exists()
    assert check('check', '-q') == 1
    files = json.loads(Path('check/manifest.json').read_text())['files']
    assert len(read) == len(set(read)) == len(files)


def test_a_complete_check_leaves_no_progress():
    assert check('check', '-q') == 1
    assert not Path(PROGRESS).parent.exists()
    assert check('check', '-q') == 1  # into the same folder
