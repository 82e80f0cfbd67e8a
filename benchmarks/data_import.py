# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Seconds and memory of ``minigpt4 data import`` for a million captions.

The source is as COCO's ``captions_train2017.json``: 200,000 images with five
captions each. The images have only the first bytes of a JPEG: the import to
stage 2 reads these and decodes no image. Each repetition is a fresh process;
the figures are CPU seconds and the largest resident memory, which include the
import of the package; the wall time is kept with the row.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import harness

IMAGES, CAPTIONS = 200_000, 5
MAX_SECONDS, MAX_MEGABYTES = 120, 1000
_WORDS = (
    'a man woman dog cat street table standing sitting on next to the large '
    'small red blue with his her holding riding bus train two three people '
    'plate of food in front'
).split()


def write_source(folder: Path) -> Path:
    """Write the captions and the images; returns the file."""
    rng = random.Random(0)
    images = folder / 'train2017'
    images.mkdir()
    names = [f'{1 + 3 * i:012d}.jpg' for i in range(IMAGES)]
    for name in names:
        (images / name).write_bytes(b'\xff\xd8\xff\xe0')
    (folder / 'annotations').mkdir()
    path = folder / 'annotations' / 'captions_train2017.json'
    content = dict(
        info=dict(description='a benchmark'),
        images=[
            dict(
                license=3,
                file_name=name,
                coco_url=f'http://images.example/train2017/{name}',
                height=427,
                width=640,
                date_captured='2013-11-14 11:18:45',
                id=1 + 3 * i,
            )
            for i, name in enumerate(names)
        ],
        annotations=[
            dict(
                image_id=1 + 3 * (i % IMAGES),
                id=37 + i,
                caption=' '.join(rng.choices(_WORDS, k=10)) + '.',
            )
            for i in range(CAPTIONS * IMAGES)
        ],
    )
    path.write_text(json.dumps(content), 'utf-8')
    return path


def run(source: Path, out: Path) -> tuple[float, float, float, int]:
    """Import; CPU seconds, wall seconds, MB and number of records."""
    command = [sys.executable, '-m', 'minigpt4_cli.main', 'data', 'import']
    command += [str(source), '-o', str(out), '--split', '0.9,0.05,0.05', '-q']
    environment = {**os.environ, 'OMP_NUM_THREADS': '1'}
    start = time.perf_counter()
    child = subprocess.Popen(command, env=environment)
    _, status, usage = os.wait4(child.pid, 0)
    wall = time.perf_counter() - start
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f'the import ended with {child.returncode}')
    summary = json.loads((out / 'import.json').read_text('utf-8'))
    cpu = usage.ru_utime + usage.ru_stime
    return cpu, wall, usage.ru_maxrss / 1024, summary['records']


def measure(repeats: int) -> Iterator[dict]:
    """Yield the rows."""
    with tempfile.TemporaryDirectory() as name:
        source = write_source(Path(name))
        runs = [run(source, Path(name, str(i))) for i in range(repeats)]
    cpu, wall, memory, records = zip(*runs)
    complete = set(records) == {CAPTIONS * IMAGES}
    guard = dict(guard_ok=complete, guard='all records')
    yield harness.row(
        'data-import',
        min(cpu),
        'CPU-s',
        at_most=MAX_SECONDS,
        wall=min(wall),
        repeats=repeats,
        **guard,
    )
    yield harness.row(
        'data-import memory',
        max(memory),
        'MB',
        at_most=MAX_MEGABYTES,
        repeats=repeats,
        **guard,
    )
