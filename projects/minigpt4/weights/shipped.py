# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Paths of the nano weights that are shipped with the package."""

from os import PathLike
from pathlib import Path

PREFIX = 'nano/'
FOLDER = Path(__file__).parents[1] / 'nano' / 'weights'


def shipped_or_local(name: 'str | PathLike[str]') -> Path:
    """Return the path of ``'nano/...'`` in the package, else a local path.

    A local file or folder of that name takes precedence.

    Args:
        name: A path, which may begin with ``~``, or ``'nano/...'``.
    """
    text = str(name)
    if text.startswith(PREFIX) and not Path(text).exists():
        return FOLDER / text.removeprefix(PREFIX)
    return Path(text).expanduser()
