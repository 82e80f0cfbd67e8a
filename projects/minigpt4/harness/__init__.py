# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Models of this project in evaluation harnesses of other projects."""
