# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The machine and the versions with which a step has run."""

import contextlib
import os
import platform
from importlib.metadata import version
from pathlib import Path

import minigpt4


def number_of_cores() -> int:
    """The number of cores that this process may use."""
    if hasattr(os, 'sched_getaffinity'):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def machine() -> str:
    """The processor, on Linux with its model, and the number of cores."""
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in Path('/proc/cpuinfo').read_text().splitlines():
            if line.startswith('model name'):
                name = line.partition(':')[2].strip()
                break
    return f'{name}, {number_of_cores()} cores'


def versions() -> str:
    """The versions of this package, torch and transformers."""
    return (
        f'minigpt4 {minigpt4.__version__}, torch {version("torch")}, '
        f'transformers {version("transformers")}'
    )
