# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The paper in miniature: train its variants, compare its claims."""
