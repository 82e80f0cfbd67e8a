# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Captions of one image or of a folder of images."""
