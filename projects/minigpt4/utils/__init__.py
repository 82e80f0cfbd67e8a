# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Helpers that know nothing of models: files, errors, signals, locks."""
