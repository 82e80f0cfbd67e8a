# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Answers about images: the Python API, and ``minigpt4 caption``."""
