# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Log the losses of a run without waiting for the device at every step."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from mmengine.hooks import LoggerHook, RuntimeInfoHook
from mmengine.runner import Runner

from ...deprecated import warn_renamed
from ...registry import HOOKS


@HOOKS.register_module()
class DeferredLossHook(RuntimeInfoHook):
    """Record the outputs of each step, and read them when they are logged.

    mmengine's hook reads the loss at each iteration, so that the GPU is idle
    between two steps. This one stores the losses on the device and reads
    several of them together. The log is the same.

    Args:
        interval: Maximum number of iterations whose losses are stored. It is
            reduced to a divisor of the logger's interval.
    """

    def __init__(self, interval: int = 50) -> None:
        self.interval = interval
        self._pending: dict[str, list[torch.Tensor]] = {}

    def before_train(self, runner: Runner) -> None:
        """Adapt the interval to that of the logger."""
        super().before_train(runner)
        self._pending.clear()
        for hook in runner.hooks:
            if isinstance(hook, LoggerHook):
                self.interval = math.gcd(self.interval, hook.interval)

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None
    ) -> None:
        """Record the learning rate at iterations that are logged."""
        if self._is_logged(runner, batch_idx):
            super().before_train_iter(runner, batch_idx, data_batch)
        else:
            runner.message_hub.update_info('iter', runner.iter)

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Mapping[str, Any] | None = None,
    ) -> None:
        """Store the losses; read them at iterations that are logged."""
        for name, value in (outputs or {}).items():
            self._pending.setdefault(name, []).append(torch.as_tensor(value))
        if self._is_logged(runner, batch_idx):
            self._read(runner)

    def before_save_checkpoint(
        self, runner: Runner, checkpoint: dict[str, Any]
    ) -> None:
        """Add the pending losses to the log history of a checkpoint."""
        if self._pending:
            self._read(runner)
            checkpoint['message_hub'] = runner.message_hub.state_dict()

    def after_train(self, runner: Runner) -> None:
        """Read the last losses."""
        self._read(runner)
        super().after_train(runner)

    def _is_logged(self, runner: Runner, batch_idx: int) -> bool:
        # mmengine's logger also writes at the end of a small data set
        return self.every_n_train_iters(
            runner, self.interval
        ) or self.end_of_epoch(runner.train_dataloader, batch_idx)

    def _read(self, runner: Runner) -> None:
        for name, values in self._pending.items():
            for value in torch.stack(values).tolist():
                runner.message_hub.update_scalar(f'train/{name}', value)
        self._pending.clear()


@HOOKS.register_module()
class LateInfoHook(DeferredLossHook):
    """The registry name of :class:`DeferredLossHook` in 0.1; deprecated."""

    def __init__(self, interval: int = 50) -> None:
        warn_renamed(
            'the hook LateInfoHook',
            'DeferredLossHook',
            category=FutureWarning,
        )
        super().__init__(interval)
