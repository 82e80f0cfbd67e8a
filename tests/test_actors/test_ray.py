# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""An actor of Ray is killed in the middle; a run is stopped and continued."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip('ray', reason='needs the extra ray')
psutil = pytest.importorskip('psutil', reason='needs psutil')
pytestmark = pytest.mark.slow

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


@pytest.fixture(scope='module')
def images(tmp_path_factory, write_scenes):
    """150 files, which are three chunks; one of them is no image."""
    return write_scenes(tmp_path_factory.mktemp('ray') / 'images', 150, 70)


@pytest.fixture(scope='module')
def captions(ray_settings, images):
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
    command = (*command, f'--ray={address}', '--actors', 2)
    running = start(*command, stdout=subprocess.PIPE)
    wait_for(lambda: busy_actors(process))[0].kill()  # SIGKILL
    output, error = running.communicate()
    assert running.returncode == 1, error  # a file is no image
    assert output == ''
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
    wait_for(lambda: wal.stat().st_size > size)  # the first rows are stored
    children = descendants(process)
    assert children
    os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does
    error = process.communicate()[1]
    assert process.returncode == 130, error
    assert 'the same command continues from there' in error
    assert not out.exists()
    wait_for(lambda: not any(child.is_running() for child in children), 300)
    again = start(*command)
    error = again.communicate()[1]
    assert again.returncode == 1, error
    done = int(error.rpartition(' already done')[0].split()[-1])
    assert 0 < done < 150  # the rows of a chunk are stored one after another
    assert out.read_bytes() == captions


def test_an_error_of_an_actor_is_one_sentence(cluster, images, tmp_path):
    broken = tmp_path / 'broken.pth'
    broken.write_bytes(b'no checkpoint')
    command = ('caption', images, '-o', tmp_path / 'out.jsonl', '-q')
    process = start(*command, '--pretrained', broken, f'--ray={cluster[1]}')
    error = process.communicate()[1]
    assert process.returncode == 1
    assert 'Traceback' not in error
    assert error.splitlines()[-1].startswith(f'error: {broken} ')
