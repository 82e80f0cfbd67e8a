# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Optimizer of the trained parameters and learning rate schedule."""

import math
from collections.abc import Mapping
from typing import Any

from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from mmengine.optim.scheduler.param_scheduler import _ParamScheduler
from mmengine.registry import OPTIM_WRAPPERS, OPTIMIZERS
from torch import nn

from ..registry import OPTIM_WRAPPER_CONSTRUCTORS, PARAM_SCHEDULERS


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class TrainedParameters(DefaultOptimWrapperConstructor):
    """Build an optimizer of the trained parameters, in a few groups.

    Biases, norms and the head's prefix have no weight decay. mmengine's own
    constructor makes one group for each parameter, also for frozen ones.

    ``paramwise_cfg`` may have mmengine's ``custom_keys``: ``lr_mult`` and
    ``decay_mult``, factors of the learning rate and the weight decay, by a
    part of the parameters' names. The longest part that matches counts.

    Raises:
        ValueError: ``paramwise_cfg`` has another key, or a factor is no
            number from zero.

    Source: MiniGPT-4 ``runners/runner_base.py`` @ d94738a.
    """

    def __init__(
        self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None
    ) -> None:
        super().__init__(optim_wrapper_cfg, paramwise_cfg)
        self.factors = dict(self.paramwise_cfg.get('custom_keys', {}))
        _require_keys(self.paramwise_cfg, {'custom_keys'}, 'paramwise_cfg')
        for part, factors in self.factors.items():
            where = f'paramwise_cfg.custom_keys[{part!r}]'
            _require_keys(factors, {'lr_mult', 'decay_mult'}, where)
            for name, factor in factors.items():
                number = type(factor) in (int, float)
                if not number or not 0 <= factor < math.inf:
                    raise ValueError(
                        f'{where} has {name}={factor!r}; expected a number '
                        'from 0.'
                    )

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Build the wrapped optimizer of a model.

        Raises:
            ValueError: The model has no trained parameters, or a part in
                ``custom_keys`` is in none of their names.
        """
        trained = {
            n: p for n, p in model.named_parameters() if p.requires_grad
        }
        if not trained:
            raise ValueError(
                'nothing of the model is trained; expected at least the head.'
            )
        for part in self.factors:
            if not any(part in name for name in trained):
                raise ValueError(
                    f'paramwise_cfg.custom_keys has {part!r}, but no trained '
                    f'parameter has that in its name; they are '
                    f'{", ".join([*trained][:4])}'
                    f'{", ..." if len(trained) > 4 else ""}.'
                )
        # by the factors of learning rate and weight decay; the first two
        # groups exist even if they are empty
        groups: dict[tuple[float, float], list[nn.Parameter]] = {
            (1.0, 1.0): [],
            (1.0, 0.0): [],
        }
        for name, parameter in trained.items():
            groups.setdefault(self._factors(name), []).append(parameter)
        params: list[dict[str, Any]] = []
        for (lr_mult, decay_mult), parameters in groups.items():
            group: dict[str, Any] = dict(params=parameters)
            if lr_mult != 1:
                group['lr'] = lr_mult * self.base_lr
            if decay_mult != 1:
                group['weight_decay'] = decay_mult * (self.base_wd or 0.0)
            params.append(group)
        optimizer = OPTIMIZERS.build({**self.optimizer_cfg, 'params': params})
        wrapper_cfg = {'type': 'OptimWrapper', **self.optim_wrapper_cfg}
        return OPTIM_WRAPPERS.build(
            wrapper_cfg, default_args=dict(optimizer=optimizer)
        )

    def _factors(self, name: str) -> tuple[float, float]:
        """Return the factors of learning rate and decay of a parameter."""
        # by name, because sharded parameters (FSDP) have another shape
        no_decay = name.endswith(('bias', '.prefix'))
        no_decay = no_decay or 'norm' in name or '.ln_' in name
        matching = [part for part in self.factors if part in name]
        found = self.factors[max(matching, key=len)] if matching else {}
        return (
            float(found.get('lr_mult', 1)),
            float(found.get('decay_mult', not no_decay)),
        )


def _require_keys(settings: Mapping, allowed: set[str], where: str) -> None:
    """Refuse other keys than the allowed ones.

    Raises:
        ValueError: There are some.
    """
    unknown = [str(key) for key in settings if key not in allowed]
    if unknown:
        raise ValueError(
            f'{where} has {", ".join(unknown)}, which TrainedParameters does '
            f'not take; expected {" and ".join(sorted(allowed))}.'
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
