# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Paths of the weights that are shipped with the package."""

from os import PathLike
from pathlib import Path

PREFIXES = ('nano/', 'small/')
_PACKAGE = Path(__file__).parents[1]
NANO_FOLDER = _PACKAGE / 'nano' / 'weights'


def shipped_or_local(name: 'str | PathLike[str]') -> Path:
    """Return the path of shipped weights, else a local path.

    A local file or folder of that name takes precedence.

    Args:
        name: A path, which may begin with ``~``; or ``'nano/...'`` or
            ``'small/...'``, which are in the package.
    """
    text = str(name)
    if text.startswith(PREFIXES) and not Path(text).exists():
        model, _, file = text.partition('/')
        return _PACKAGE / model / 'weights' / file
    return Path(text).expanduser()
