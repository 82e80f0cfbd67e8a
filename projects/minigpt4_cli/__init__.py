# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The command ``minigpt4``: one module per verb."""
