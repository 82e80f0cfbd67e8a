# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Tools for data sets: read every layout, check them, show their prompts."""
