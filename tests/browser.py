# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""A browser for tests: Chromium, driven by playwright.

Without Chromium the tests of the browser are skipped, or fail where
MINIGPT4_REQUIRE_BROWSER is set, as in CI.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest


def skip_or_fail(reason: str) -> None:
    """Skip, or fail where a browser is required."""
    if os.environ.get('MINIGPT4_REQUIRE_BROWSER'):
        pytest.fail(f'MINIGPT4_REQUIRE_BROWSER is set, but {reason}')
    pytest.skip(reason)


@contextlib.contextmanager
def started_playwright(*packages: str) -> Iterator[tuple[Any, str]]:
    """Start playwright.

    Args:
        packages: What the test needs besides playwright.

    Yields:
        Playwright, and the path of Chromium.
    """
    for package in ('playwright', *packages):
        try:
            __import__(package)
        except ImportError:
            skip_or_fail(f'{package} is not installed (minigpt4[test] has it)')
    names = ('chromium', 'chromium-browser', 'google-chrome')
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        skip_or_fail(
            'Chromium is not installed (on Debian: apt install chromium)'
        )
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        yield playwright, str(path)


@contextlib.contextmanager
def running_server(
    arguments: Sequence, address: str, log: Path
) -> Iterator[str]:
    """Run a server as users do; stop it as Ctrl-C does.

    Args:
        arguments: Of the Python interpreter.
        address: A pattern of the printed address, which is its group.
        log: The file of the output.

    Yields:
        The address.
    """
    with log.open('w') as out:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=dict(os.environ, PYTHONUNBUFFERED='1'),
        )
    try:
        deadline = time.monotonic() + 240
        while not (found := re.search(address, log.read_text())):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield found[1]
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 0, log.read_text()
        assert 'Traceback' not in log.read_text(), log.read_text()
    finally:
        process.kill()
        process.wait()
