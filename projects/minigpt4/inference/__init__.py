# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Using a trained model: from Python, the command line, and beyond."""
