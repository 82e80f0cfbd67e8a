# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The page of ``minigpt4 data browse``."""
