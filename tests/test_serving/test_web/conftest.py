# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The nano model with an engine, and a browser: Chromium.

Without Chromium the tests of the browser are skipped, or fail where
MINIGPT4_REQUIRE_BROWSER is set, as in CI.
"""

import os
import shutil

import pytest

import minigpt4
from minigpt4.generation.engine import Engine
from minigpt4.generation.worker import EngineWorker


@pytest.fixture(scope='package')
def model():
    return minigpt4.get_model('minigpt-4_nano_caption', device='cpu').eval()


@pytest.fixture(scope='package')
def worker(model):
    worker = EngineWorker(Engine(model))
    yield worker
    worker.close(drain=False)


def skip_or_fail(reason: str) -> None:
    """Skip, or fail where a browser is required."""
    if os.environ.get('MINIGPT4_REQUIRE_BROWSER'):
        pytest.fail(f'MINIGPT4_REQUIRE_BROWSER is set, but {reason}')
    pytest.skip(reason)


@pytest.fixture(scope='module')
def chromium():
    for package in ('gradio', 'playwright', 'uvicorn'):
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
        browser = playwright.chromium.launch(executable_path=path)
        yield browser
        browser.close()
