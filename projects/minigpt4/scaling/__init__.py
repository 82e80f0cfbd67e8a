# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""A simulation of stage 1 on many GPUs; its command is tools/scaling.py."""
