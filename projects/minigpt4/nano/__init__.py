# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The scale model: a small world, its texts, and the parts that know it."""

from .metric import NanoMetric

__all__ = ['NanoMetric']
