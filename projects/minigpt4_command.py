# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Start the ``minigpt4`` command before the package itself is imported.

``import minigpt4`` imports torch, MMEngine and MMPretrain. Where that fails,
``minigpt4 doctor`` must still run and say why, so the command line is loaded
as a file, and each verb imports the package when it is called.
"""

from importlib.util import (
    find_spec,
    module_from_spec,
    spec_from_file_location,
)
from pathlib import Path


def main() -> int:
    """The console script ``minigpt4``: run ``minigpt4.inference.cli``."""
    spec = find_spec('minigpt4')
    if spec is None or spec.origin is None:
        raise SystemExit(
            'the package minigpt4 is not on the path of this Python; install '
            'it with: pip install minigpt4, or pip install -e . in a checkout.'
        )
    path = Path(spec.origin).parent / 'inference' / 'cli.py'
    cli_spec = spec_from_file_location('minigpt4_cli', path)
    assert cli_spec is not None and cli_spec.loader is not None
    cli = module_from_spec(cli_spec)
    cli_spec.loader.exec_module(cli)
    return cli.main()
