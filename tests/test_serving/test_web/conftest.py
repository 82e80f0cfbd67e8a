# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""A real browser, which Debian's package chromium is.

Without one its tests are skipped; where MINIGPT4_REQUIRE_BROWSER is set, as
in CI, they fail.
"""

import os
import shutil

import pytest


def missing(reason: str) -> None:
    """Skip, or fail where a browser has to be there."""
    if os.environ.get('MINIGPT4_REQUIRE_BROWSER'):
        pytest.fail(f'MINIGPT4_REQUIRE_BROWSER is set, but {reason}')
    pytest.skip(reason)


@pytest.fixture(scope='module')
def chromium():
    for package in ('gradio', 'playwright', 'uvicorn'):
        try:
            __import__(package)
        except ImportError:
            missing(f'{package} is not installed (minigpt4[test] has it)')
    names = ('chromium', 'chromium-browser', 'google-chrome')
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        missing('there is no Chromium (on Debian: apt install chromium)')
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path)
        yield browser
        browser.close()
