# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Reading images from files, URLs and data URIs to RGB pixels."""
