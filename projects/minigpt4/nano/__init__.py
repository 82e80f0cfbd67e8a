# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The nano model: its data set, its pretraining and its metric."""

from .metric import NanoMetric

__all__ = ['NanoMetric']
