# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Runs a file of tools/ in a process that a test started for it."""

import contextlib
import io
import os
import runpy
import socket
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
_connect = socket.socket.connect


def connect_locally(self: socket.socket, address) -> None:
    """Connect to this machine; another address fails the test."""
    if self.family != socket.AF_UNIX and address[0] not in (
        '127.0.0.1',
        '::1',
        'localhost',
    ):
        pytest.fail(f'a test used the network: {address}')
    _connect(self, address)


def run_in_this_process(
    tool: str, arguments: tuple, cwd: Path, variables: dict
) -> str:
    """Run a tool without a GPU and without the network.

    Args:
        variables: the environment of the test, with the rank's.

    Returns:
        Its standard output and standard error.
    """
    socket.socket.connect = connect_locally
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(variables)
    torch.set_num_threads(1)
    torch.cuda.is_available = lambda: False
    sys.argv = [tool, *map(str, arguments)]
    printed = io.StringIO()
    with (
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(printed),
    ):
        try:
            runpy.run_path(str(ROOT / 'tools' / tool), run_name='__main__')
        except SystemExit as ended:
            assert not ended.code, f'{ended.code}: {printed.getvalue()}'
    return printed.getvalue()
