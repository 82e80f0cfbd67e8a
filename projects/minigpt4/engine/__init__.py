# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Training: optimizer, learning rate, loop, hooks, and the runner."""

from ..deprecated import renamed
from .hooks import (
    DeferredLossHook,
    ReferenceHook,
    ResumeHook,
    SampleCaptionsHook,
    SanityHook,
    ThroughputHook,
    WarmStartHook,
)
from .loops import EndlessTrainLoop, RankParallel
from .optim import TrainedParameters, WarmupCosineLR

__all__ = [
    'EndlessTrainLoop',
    'DeferredLossHook',
    'RankParallel',
    'ReferenceHook',
    'ResumeHook',
    'SampleCaptionsHook',
    'SanityHook',
    'ThroughputHook',
    'TrainedParameters',
    'WarmStartHook',
    'WarmupCosineLR',
]

__getattr__ = renamed(__name__, {'LateInfoHook': 'DeferredLossHook'})
