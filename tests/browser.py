# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""A browser for tests: Chromium, driven by playwright.

Without Chromium the tests of the browser are skipped, or fail where
MINIGPT4_REQUIRE_BROWSER is set, as in CI.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator
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
