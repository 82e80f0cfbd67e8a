# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Hooks of trainings and tests, one module each."""

from ...deprecated import renamed
from .deferred_loss import DeferredLossHook
from .reference import ReferenceHook
from .run_state import ResumeHook
from .sample_captions import SampleCaptionsHook
from .sanity import SanityHook, UnusableRunError
from .scored_records import ScoredRecordsHook
from .throughput import ThroughputHook
from .warm_start import WarmStartHook

__all__ = [
    'DeferredLossHook',
    'ReferenceHook',
    'ResumeHook',
    'SampleCaptionsHook',
    'SanityHook',
    'ScoredRecordsHook',
    'ThroughputHook',
    'UnusableRunError',
    'WarmStartHook',
]

__getattr__ = renamed(__name__, {'LateInfoHook': 'DeferredLossHook'})
