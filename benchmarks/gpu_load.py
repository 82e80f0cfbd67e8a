# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Seconds from the start of a process to the first token, on a GPU.

Random weights of the real size are written first (16 GB). For the cold figure
the files are dropped from the page cache, as far as the system allows. The
guard is that the first token is the same cold and warm. The goal is 1.2 times
the time to read the files, which is measured in the same run.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import gpu
import harness
import mini_prop
import torch

UNIT = 's to first token'
SLACK = 1.2


def _files(folder: Path) -> list[Path]:
    return list(folder.rglob('*.safetensors'))


def _drop_from_cache(folder: Path) -> None:
    """Ask the system to drop the files from its page cache."""
    for path in _files(folder):
        with open(path, 'rb') as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _read(folder: Path) -> float:
    """Read all files; return the seconds."""
    start = time.perf_counter()
    for path in _files(folder):
        with open(path, 'rb', buffering=0) as file:
            while file.read(2**24):
                pass
    return time.perf_counter() - start


def first_token(folder: Path, device: str) -> None:
    """Build the model, generate one token and print it."""
    model = mini_prop.build(folder, device=device)
    size = (folder / 'size').read_text()
    sample = mini_prop.samples(
        ['<Img><ImageHere></Img> ' + mini_prop.ALIGNMENT_PROMPTS[0]],
        [None],
        mini_prop.images(1, size),
    )
    (answer,) = model.generate(sample, max_new_tokens=1, do_sample=False)
    print('token', json.dumps(answer.token_ids))


def measure(
    name: str, size: str = 'vicuna-7b', device: str = 'cuda'
) -> list[dict]:
    """Measure the rows, cold and warm."""
    names = (f'{name} cold', f'{name} warm')
    if device == 'cuda' and not torch.cuda.is_available():
        return [gpu.no_gpu(row, UNIT) for row in names]
    dtype = torch.float32 if device == 'cpu' else torch.bfloat16
    with tempfile.TemporaryDirectory() as temporary:
        folder = mini_prop.save(Path(temporary) / 'w', size, dtype, device)
        figures, tokens, reads = [], [], []
        for cold in (True, False):
            for seconds, function in (
                (reads, lambda: _read(folder)),
                (figures, lambda: _start(folder, device, tokens)),
            ):
                if cold:
                    _drop_from_cache(folder)
                seconds.append(function())
    same = tokens[0] == tokens[1]
    return [
        harness.row(
            row,
            figure,
            UNIT,
            at_most=SLACK * read,
            guard_ok=same,
            guard='first token ' + ('equal' if same else 'differs'),
            read_s=read,
        )
        for row, figure, read in zip(names, figures, reads)
    ]


def _start(folder: Path, device: str, tokens: list) -> float:
    """Run ``first-token`` in a new process; return the seconds."""
    start = time.perf_counter()
    out = subprocess.run(
        [sys.executable, __file__, 'first-token', str(folder), device],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    tokens.append([x for x in out.splitlines() if x.startswith('token')])
    return time.perf_counter() - start


if __name__ == '__main__':
    if sys.argv[1:2] == ['first-token']:
        first_token(Path(sys.argv[2]), sys.argv[3])
    else:
        gpu.main(measure, ['load-h200'])
