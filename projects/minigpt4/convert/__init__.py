# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Weights in and out: other projects' files and folders."""

from .files import convert
from .vicuna import merge_delta

__all__ = ['convert', 'merge_delta']
