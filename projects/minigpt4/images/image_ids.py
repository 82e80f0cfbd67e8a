# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The id by which data about an image refers to its file."""

import os
import re
from collections.abc import Container
from pathlib import Path

_COCO_NAME = re.compile(r'(?:COCO_\w+_)?(\d+)')


def image_id(path: 'str | Path', known: Container[str]) -> str:
    """The id of an image file.

    Args:
        path: The file.
        known: Ids. That of the file is its absolute path or its name without
            suffix if this is one of them, else the number in a name of COCO
            (``COCO_val2014_000000000139.jpg`` and ``000000000139.jpg`` are
            139), else its name without suffix.
    """
    for absolute in (os.path.abspath(path), os.path.realpath(path)):
        if absolute in known:
            return absolute
    stem = Path(path).stem
    number = _COCO_NAME.fullmatch(stem)
    if stem in known or not number:
        return stem
    return str(int(number[1]))
