# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""A Ray cluster of two CPUs that all tests of this folder share."""

import random
import subprocess
import sys
import threading

import pytest
from tests.free_port import free_port

from minigpt4.nano.world import render, sample_scene


@pytest.fixture(scope='package')
def ray_settings():
    """One thread in each process; no file in the home folder; patience."""
    patch = pytest.MonkeyPatch()
    for name, value in (
        ('OMP_NUM_THREADS', '1'),  # equal sums
        ('RAY_AUTH_MODE', 'disabled'),  # else a token is written
        ('RAY_agent_register_timeout_ms', '300000'),
        ('RAY_raylet_start_wait_time_s', '60'),
        ('RAY_worker_niceness', '0'),  # else a busy machine starves them
    ):
        patch.setenv(name, value)
    yield
    patch.undo()


@pytest.fixture(scope='package')
def cluster(ray_settings):
    """The process of a cluster of this machine alone, and its address."""
    pytest.importorskip('ray', reason='needs the extra ray')
    printed = ''
    for _ in range(3):  # on a busy machine a part of Ray may be too late
        process, port = _start_cluster()
        for line in process.stdout:
            printed += line
            if 'Ray runtime started' in line:
                threading.Thread(
                    target=process.stdout.read, daemon=True
                ).start()
                try:
                    yield process, f'127.0.0.1:{port}'
                finally:
                    process.terminate()
                    process.wait()
                return
        process.wait()
    pytest.fail(f'"ray start" has ended: {printed[-3000:]}')


def _start_cluster():
    port = free_port()
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
    return process, port


@pytest.fixture(scope='session')
def write_scenes():
    """Writes a number of scenes, of which one file is no image."""

    def write(folder, number, broken):
        rng = random.Random(4)
        folder.mkdir()
        for i in range(number):
            render(sample_scene(rng), rng).save(folder / f'{i:03d}.png')
        (folder / f'{broken:03d}.png').write_bytes(b'no image')
        return folder

    return write
