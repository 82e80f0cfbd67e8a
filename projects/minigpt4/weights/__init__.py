# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Reading, writing, naming and downloading files of tensors."""
