# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Log samples and tokens per second, and the main memory of the process."""

import resource
import time
from collections.abc import Mapping
from typing import Any

from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ...registry import HOOKS


@HOOKS.register_module()
class ThroughputHook(Hook):
    """Add ``samples_per_s``, ``tokens_per_s`` and ``peak_memory_mb``.

    The rates are those of all ranks together. ``peak_memory_mb`` is the
    resident memory of this process in MiB (mmengine logs GPU memory itself).

    Args:
        interval: Number of iterations that a rate is averaged over.
    """

    priority = 'ABOVE_NORMAL'  # before the logger

    def __init__(self, interval: int = 10) -> None:
        self.interval = interval
        self._samples = self._tokens = 0
        self._start = 0.0

    def before_train(self, runner: Runner) -> None:
        """Start the clock."""
        self._start = time.perf_counter()

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Mapping[str, Any] | None = None,
    ) -> None:
        """Add the counts of a batch, which its collator made."""
        self._samples += data_batch['counts']['samples']
        self._tokens += data_batch['counts']['tokens']
        if self.every_n_train_iters(runner, self.interval):
            now = time.perf_counter()
            factor = get_world_size() / (now - self._start)
            hub = runner.message_hub
            hub.update_scalar('train/samples_per_s', self._samples * factor)
            hub.update_scalar('train/tokens_per_s', self._tokens * factor)
            peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            hub.update_scalar('train/peak_memory_mb', peak_kib / 1024)
            self._samples = self._tokens = 0
            self._start = now
