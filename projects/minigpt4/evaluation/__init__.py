# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Evaluation: each protocol of ``minigpt4 eval``, and its scores."""
