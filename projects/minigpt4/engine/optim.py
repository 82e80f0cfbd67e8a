# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""What is optimised, and along which learning rate."""

import math

from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from mmengine.optim.scheduler.param_scheduler import _ParamScheduler
from mmengine.registry import OPTIM_WRAPPERS, OPTIMIZERS
from torch import nn

from ..registry import OPTIM_WRAPPER_CONSTRUCTORS, PARAM_SCHEDULERS


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class TrainedParameters(DefaultOptimWrapperConstructor):
    """Gives the optimizer the trained parameters alone, in two groups.

    mmengine's own constructor makes a group for each frozen parameter.
    Biases and norms have no weight decay.

    Source: MiniGPT-4 ``runners/runner_base.py`` @ d94738a.
    """

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Build the wrapped optimizer of a model.

        Raises:
            ValueError: Nothing of the model is trained.
        """
        trained = {
            n: p for n, p in model.named_parameters() if p.requires_grad
        }
        if not trained:
            raise ValueError(
                'nothing of the model is trained; expected at least the head.'
            )
        # by name, for sharded parameters (FSDP) have lost their shape
        plain = {
            name
            for name in trained
            if name.endswith('bias') or 'norm' in name or '.ln_' in name
        }
        groups = [
            dict(params=[p for n, p in trained.items() if n not in plain]),
            dict(
                params=[p for n, p in trained.items() if n in plain],
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
    """The official learning rate, per iteration.

    A linear warm-up from ``start`` to the optimizer's rate, then a cosine
    that runs over the whole training, not from the end of the warm-up: the
    rate falls by a small step where they join. mmengine's ``LinearLR`` and
    ``CosineAnnealingLR`` cannot express that.

    Args:
        optimizer: The (wrapped) optimizer.
        warmup: Iterations of the warm-up.
        end: Iterations of the training; mmengine fills it in.
        start: Rate at iteration 0.
        minimum: Rate at the end.
        by_epoch: Must be False, also in the config.
        last_step: Iteration to go on from.
        verbose: Whether to print each rate.

    Source: MiniGPT-4 ``LinearWarmupCosineLRScheduler`` of
    ``common/optims.py`` @ d94738a.
    """

    def __init__(
        self,
        optimizer,
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
                'WarmupCosineLR goes by iteration; set '
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
        """The rate at an iteration, for a peak rate."""
        if step < self.warmup:
            return self.start + (peak - self.start) * step / self.warmup
        cosine = 0.5 * (1 + math.cos(math.pi * min(step / self.total, 1)))
        return self.minimum + (peak - self.minimum) * cosine

    def _get_value(self) -> list[float]:
        return [self.rate(peak, self.last_step) for peak in self.base_values]
