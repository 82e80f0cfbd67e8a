# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The commands of this project as the steps of a reproduction run them."""

import shutil
import sys
from pathlib import Path

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


def copied_config(name: str) -> str:
    """The path of its copy, relative to the working folder of the steps."""
    return str(Path('configs', 'minigpt4', name))


def copy_configs(folder: Path) -> None:
    """Copy all configs into the working folder of the steps.

    A step may begin an hour after the plan was made; meanwhile a config may be
    changed for the next run.

    Args:
        folder: The working folder.
    """
    copies = folder / 'configs'
    shutil.rmtree(copies, ignore_errors=True)
    # the output may be in the folder of the configs
    own = {folder.resolve(), folder.resolve().parent}

    def ignored(parent: str, names: list[str]) -> list[str]:
        return [
            name
            for name in names
            if name == '__pycache__' or Path(parent, name).resolve() in own
        ]

    shutil.copytree(project_root() / 'configs', copies, ignore=ignored)
