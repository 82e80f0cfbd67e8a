# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Batch work of the commands, in this process or on actors of Ray."""
