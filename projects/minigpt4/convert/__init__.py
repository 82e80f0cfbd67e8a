# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Convert weights between our files and those of other projects."""

from .convert_files import convert
from .vicuna import merge_delta

__all__ = ['convert', 'merge_delta']
