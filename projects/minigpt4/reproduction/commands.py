# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The commands of this project as the steps of a reproduction run them."""

import sys

from ..weights.model_hub import project_root


def tool(name: str, *words: str) -> tuple[str, ...]:
    """A script of ``tools/`` with its arguments."""
    return sys.executable, str(project_root() / 'tools' / name), *words


def minigpt4(*words: str) -> tuple[str, ...]:
    """The console command with its arguments."""
    return sys.executable, '-m', 'minigpt4_cli.main', *words


def arguments(command: tuple[str, ...]) -> tuple[str, ...]:
    """The arguments of a command of this module.

    They do not depend on where Python and this project are.
    """
    return command[3 if command[1] == '-m' else 2 :]


def config_file(name: str) -> str:
    """The path of a config of ``configs/minigpt4``."""
    return str(project_root() / 'configs' / 'minigpt4' / name)
