# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Makes this folder win over a package ``tests`` that pip has installed."""
