# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Optimizer of the trained parameters and learning rate schedule."""

import math
from typing import Any

from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from mmengine.optim.scheduler.param_scheduler import _ParamScheduler
from mmengine.registry import OPTIM_WRAPPERS, OPTIMIZERS
from torch import nn

from ..registry import OPTIM_WRAPPER_CONSTRUCTORS, PARAM_SCHEDULERS


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class TrainedParameters(DefaultOptimWrapperConstructor):
    """Build an optimizer of the trained parameters, in two groups.

    The second group, biases and norms, has no weight decay. mmengine's own
    constructor makes one group for each parameter, also for frozen ones.

    Source: MiniGPT-4 ``runners/runner_base.py`` @ d94738a.
    """

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Build the wrapped optimizer of a model.

        Raises:
            ValueError: The model has no trained parameters.
        """
        trained = {
            n: p for n, p in model.named_parameters() if p.requires_grad
        }
        if not trained:
            raise ValueError(
                'nothing of the model is trained; expected at least the head.'
            )
        # by name, because sharded parameters (FSDP) have another shape
        without_decay = {
            name
            for name in trained
            if name.endswith('bias') or 'norm' in name or '.ln_' in name
        }
        groups = [
            dict(
                params=[
                    p for n, p in trained.items() if n not in without_decay
                ]
            ),
            dict(
                params=[p for n, p in trained.items() if n in without_decay],
                weight_decay=0.0,
            ),
        ]
        optimizer = OPTIMIZERS.build({**self.optimizer_cfg, 'params': groups})
        wrapper_cfg = {'type': 'OptimWrapper', **self.optim_wrapper_cfg}
        return OPTIM_WRAPPERS.build(
            wrapper_cfg, default_args=dict(optimizer=optimizer)
        )


@PARAM_SCHEDULERS.register_module()
class WarmupCosineLR(_ParamScheduler):
    """The learning rate schedule of the official code, per iteration.

    A linear warm-up from ``start`` to the optimizer's rate, then a cosine
    over all iterations of the training. The cosine does not start at the end
    of the warm-up, so the rate drops slightly there, which mmengine's
    ``LinearLR`` and ``CosineAnnealingLR`` cannot express.

    Args:
        optimizer: The (wrapped) optimizer.
        warmup: Number of iterations of the warm-up.
        end: Number of iterations of the training; set by mmengine.
        start: Rate at iteration 0.
        minimum: Rate at the end.
        by_epoch: Must be False, also in the config.
        last_step: Iteration of a resumed run.
        verbose: Whether to print each rate.

    Source: MiniGPT-4 ``LinearWarmupCosineLRScheduler`` of
    ``common/optims.py`` @ d94738a.
    """

    def __init__(
        self,
        optimizer: Any,
        warmup: int,
        end: int,
        start: float = 1e-6,
        minimum: float = 0.0,
        by_epoch: bool = False,
        last_step: int = -1,
        verbose: bool = False,
    ) -> None:
        if by_epoch:
            raise ValueError(
                'WarmupCosineLR counts iterations; set '
                'by_epoch=False in param_scheduler.'
            )
        self.warmup, self.total = warmup, end
        self.start, self.minimum = start, minimum
        super().__init__(
            optimizer,
            param_name='lr',
            by_epoch=by_epoch,
            last_step=last_step,
            verbose=verbose,
        )

    def rate(self, peak: float, step: int) -> float:
        """Return the rate at an iteration, for a peak rate."""
        if step < self.warmup:
            return self.start + (peak - self.start) * step / self.warmup
        cosine = 0.5 * (1 + math.cos(math.pi * min(step / self.total, 1)))
        return self.minimum + (peak - self.minimum) * cosine

    def _get_value(self) -> list[float]:
        return [self.rate(peak, self.last_step) for peak in self.base_values]
