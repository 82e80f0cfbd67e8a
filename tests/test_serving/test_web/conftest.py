# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The nano model with an engine, and a browser: Chromium."""

import pytest
from tests.browser import started_playwright

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


@pytest.fixture(scope='module')
def chromium():
    with started_playwright('gradio', 'uvicorn') as (playwright, path):
        browser = playwright.chromium.launch(executable_path=path)
        yield browser
        browser.close()
