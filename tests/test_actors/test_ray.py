# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Commands on a Ray cluster of two actors: the bytes of one process.

An actor is killed in the middle, and a run is stopped and continued.
"""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from minigpt4.curation.ledger import Ledger
from minigpt4.nano.world import render, sample_scene
from minigpt4.nano.write_dataset import write_dataset

pytest.importorskip('ray', reason='needs the extra ray')
psutil = pytest.importorskip('psutil', reason='needs psutil')
pytestmark = pytest.mark.slow

CONFIG = Path(__file__).parents[2] / 'configs/minigpt4/stage1_nano.py'
BUSY = 'ray::WorkerActor.run'  # the name of an actor that has a chunk
SHORT = ('--max-new-tokens', 12, '-q')


started = []  # processes, which a failed test leaves


def start(*words, **options):
    command = [sys.executable, '-m', 'minigpt4_cli.main', *map(str, words)]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, **options
    )
    started.append(process)
    return process


@pytest.fixture(autouse=True)
def ended():
    """Ends what a failed test has left."""
    yield
    for process in started:
        process.kill()
    started.clear()


def run(*words):
    process = start(*words)
    error = process.communicate()[1]
    assert process.returncode == 0, error
    return error


@pytest.fixture(scope='module')
def environment():
    """One thread in each process; no file in the home folder; patience."""
    patch = pytest.MonkeyPatch()
    for name, value in (
        ('OMP_NUM_THREADS', '1'),  # equal sums
        ('RAY_AUTH_MODE', 'disabled'),  # else a token is written
        ('RAY_agent_register_timeout_ms', '300000'),
        ('RAY_raylet_start_wait_time_s', '300'),
    ):
        patch.setenv(name, value)
    yield
    patch.undo()


@pytest.fixture(scope='module')
def cluster(environment):
    """The process of a cluster of this machine alone, and its address."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [
            *(sys.executable, '-m', 'ray.scripts.scripts', 'start', '--head'),
            *('--block', '--num-cpus=2', '--num-gpus=0', f'--port={port}'),
            *('--node-ip-address=127.0.0.1', '--include-dashboard=false'),
            '--disable-usage-stats',
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    for line in process.stdout:
        if 'Ray runtime started' in line:
            break
    else:
        pytest.fail('ray start has ended')
    threading.Thread(target=process.stdout.read, daemon=True).start()
    try:
        yield process, f'127.0.0.1:{port}'
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    """150 scenes, which are three chunks, and a file that is no image."""
    rng = random.Random(4)
    folder = tmp_path_factory.mktemp('ray') / 'images'
    folder.mkdir()
    for i in range(150):
        render(sample_scene(rng), rng).save(folder / f'{i:03d}.png')
    (folder / '070.png').write_bytes(b'no image')
    return folder


@pytest.fixture(scope='module')
def captions(environment, images):
    """The table of one process."""
    out = images.parent / 'one.jsonl'
    assert start('caption', images, *SHORT, '-o', out).wait() == 1
    return out.read_bytes()


def descendants(process):
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def busy_actors(process):
    found = []
    for child in descendants(process):
        try:
            if BUSY in ' '.join(child.cmdline()):
                found.append(child)
        except psutil.NoSuchProcess:
            pass
    return found


def wait_for(what, seconds=500):
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end
        time.sleep(0.01)
    return found


def test_captions_with_a_killed_actor_are_those_of_one_process(
    cluster, images, captions
):
    process, address = cluster
    out = images.parent / 'ray.jsonl'
    command = ('caption', images, *SHORT, '-o', out)
    running = start(*command, f'--ray={address}', '--actors', 2)
    wait_for(lambda: busy_actors(process))[0].kill()  # SIGKILL
    error = running.communicate()[1]
    assert running.returncode == 1, error  # a file is no image
    assert 'an actor ended; its work is given to another one' in error
    assert out.read_bytes() == captions
    assert captions.count(b'\n') == 150


def test_a_stopped_run_leaves_no_process_and_continues(images, captions):
    out = images.parent / 'stopped.jsonl'
    command = ('caption', images, *SHORT[:2], '-o', out)
    command = (*command, '--ray', 'local', '--actors', 2)
    process = start(*command, start_new_session=True)
    wal = Path(f'{out.with_suffix(".sqlite")}-wal')
    wait_for(lambda: busy_actors(process))
    size = wal.stat().st_size
    wait_for(lambda: wal.stat().st_size > size)  # of the first chunk
    children = descendants(process)
    assert children
    os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does
    error = process.communicate()[1]
    assert process.returncode == 130, error
    assert 'the same command continues from there' in error
    assert not out.exists()
    wait_for(lambda: not any(child.is_running() for child in children), 60)
    again = start(*command)
    error = again.communicate()[1]
    assert again.returncode == 1, error
    done = int(error.rpartition(' already done')[0].split()[-1])
    assert 64 <= done < 150
    assert out.read_bytes() == captions


@pytest.mark.parametrize('method', ['generate', 'likelihood'])
def test_an_evaluation_has_the_bytes_of_one_process(
    cluster, images, tmp_path, method
):
    questions = [
        dict(
            question_id=i,
            image=f'{i // 2:03d}.png',
            text=f'Is there a {("red", "blue")[i % 2]} circle?',
            label=('yes', 'no')[i % 2],
        )
        for i in range(130)
    ]
    file = tmp_path / 'pope.json'
    file.write_text('\n'.join(map(json.dumps, questions)))
    command = ('eval', 'pope', '--questions', file, '--images', images)
    command = (*command, '--method', method, *SHORT, '-o')
    run(*command, tmp_path / 'one')
    run(*command, tmp_path / 'ray', f'--ray={cluster[1]}', '--actors', 2)
    for name in ('answers.jsonl', 'settings.json', 'summary.json'):
        one, ray = ((tmp_path / x / name).read_bytes() for x in ('one', 'ray'))
        assert one == ray, name


def test_a_curation_has_the_texts_of_one_process(cluster, images, tmp_path):
    for package in ('datasketch', 'ftfy', 'imagehash', 'lingua'):
        pytest.importorskip(package, reason='needs the extra curate')
    one, ray = tmp_path / 'one.sqlite', tmp_path / 'ray.sqlite'
    valid = [images / f'{i:03d}.png' for i in range(70)]
    run('curate', 'add', *valid, '--ledger', one, '-q')
    shutil.copy(one, ray)
    command = ('curate', 'run', '--steps', 'describe,continue', '-q')
    command = (*command, '--set', 'describe.generation={max_new_tokens: 12}')
    run(*command, '--ledger', one)
    run(*command, '--ledger', ray, f'--ray={cluster[1]}', '--actors', 2)
    found = []
    for path in (one, ray):
        with Ledger(path) as ledger:
            found.append(
                [
                    (r.image, r.status, r.text, r.details['tokens'])
                    for step in (1, 2)
                    for r in ledger.results(step)
                ]
            )
    assert sorted(found[0]) == sorted(found[1])
    assert len(found[0]) == 2 * 70


def test_a_feature_cache_has_the_bytes_of_one_process(
    cluster, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    write_dataset(
        tmp_path / 'data/nano', pairs=300, descriptions=8, test_scenes=4
    )
    command = ('cache-features', CONFIG, '-o')
    run(*command, 'one')
    run(*command, 'ray', f'--ray={cluster[1]}', '--actors', 2)
    names = sorted(path.name for path in Path('one').iterdir())
    assert names == sorted(path.name for path in Path('ray').iterdir())
    assert Path('one/0000.features').stat().st_size > 0
    for name in names:
        assert Path('one', name).read_bytes() == Path('ray', name).read_bytes()


def test_an_error_of_an_actor_is_one_sentence(cluster, images, tmp_path):
    broken = tmp_path / 'broken.pth'
    broken.write_bytes(b'no checkpoint')
    command = ('caption', images, '-o', tmp_path / 'out.jsonl', '-q')
    process = start(*command, '--pretrained', broken, f'--ray={cluster[1]}')
    error = process.communicate()[1]
    assert process.returncode == 1
    assert 'Traceback' not in error
    assert error.splitlines()[-1].startswith(f'error: {broken} ')
