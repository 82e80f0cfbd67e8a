# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The files of the review page.

``page.js`` displays texts and handles keys; ``server.js`` (the local page)
or ``offline.js`` (the exported page) loads texts and stores decisions.
"""

import functools
from pathlib import Path


@functools.cache
def page_file(name: str) -> str:
    """The text of a file of this folder."""
    return Path(__file__).with_name(name).read_text('utf-8')
