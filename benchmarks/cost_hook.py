# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Record what each step of a training costs each rank.

``tools/train.py`` finds the hook with this folder in ``PYTHONPATH`` and
``--cfg-options default_hooks.cost.type=cost_hook.CostHook
default_hooks.cost.folder=FOLDER``.
"""

import json
import os
import time
from pathlib import Path

from mmengine.dist import get_rank
from mmengine.hooks import Hook

TICKS = os.sysconf('SC_CLK_TCK')


def children_seconds() -> float:
    """CPU seconds of the living children, which are the data workers."""
    total = 0
    for task in Path('/proc/self/task').iterdir():
        for child in (task / 'children').read_text().split():
            stat = Path(f'/proc/{child}/stat').read_text()
            fields = stat.rpartition(')')[2].split()
            total += int(fields[11]) + int(fields[12])  # user and system
    return total / TICKS


def resident(key: str) -> int:
    """Bytes of an entry of ``/proc/self/status``, such as ``VmHWM``."""
    for line in Path('/proc/self/status').read_text().splitlines():
        if line.startswith(f'{key}:'):
            return int(line.split()[1]) * 1024
    raise ValueError(f'/proc/self/status has no {key}')


class CostHook(Hook):
    """Write CPU seconds, positions, samples and memory of each step.

    CPU seconds are user and system time, which other processes of the machine
    lengthen little, unlike wall time.

    Args:
        folder: Where ``rank-N.json`` is written: the CPU seconds of the data
            workers, the resident bytes before the first step, their peak in
            the steps, and for each step the CPU seconds of the rank, its
            samples and the positions of its LLM.
    """

    priority = 'VERY_LOW'

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self.steps: list[tuple[float, int, int]] = []

    def before_train(self, runner) -> None:
        """Start to count."""
        self._before = resident('VmRSS')
        # the peak of loading is not that of the steps
        Path('/proc/self/clear_refs').write_text('5')
        self._time = time.process_time()

    def after_train_iter(
        self, runner, batch_idx: int, data_batch=None, outputs=None
    ) -> None:
        """Note the costs of a step."""
        now = time.process_time()
        counts = data_batch['counts']
        self.steps.append(
            (now - self._time, counts['samples'], counts['tokens'])
        )
        self._write()
        self._time = time.process_time()

    def _write(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / f'rank-{get_rank()}.json').write_text(
            json.dumps(
                dict(
                    workers=children_seconds(),
                    before=self._before,
                    peak=resident('VmHWM'),
                    steps=self.steps,
                )
            )
        )
