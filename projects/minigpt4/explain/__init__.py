# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Explanations of an answer: `minigpt4 explain`."""
