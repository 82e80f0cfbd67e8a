# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""A conversation about images: history, prompt and saved file."""
