# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The nano model, an image it knows, and a chat fed from a pipe."""

import io
import random

import pytest

import minigpt4
from minigpt4.nano.world import render, sample_scene
from minigpt4.terminal import run as run_module
from minigpt4_cli import main as cli


@pytest.fixture(scope='package')
def model():
    return minigpt4.get_model('minigpt-4_nano_caption', device='cpu').eval()


@pytest.fixture(scope='package')
def scene():
    return sample_scene(random.Random(4), held_out=True)


@pytest.fixture
def image(scene, tmp_path, monkeypatch):
    """An image with a blank in its name, in the current folder."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / 'my scene.png'
    render(scene, random.Random(8)).save(path)
    return path


@pytest.fixture(autouse=True)
def loaded_model(model, monkeypatch):
    """Loads the model once for all tests."""
    monkeypatch.setattr(run_module, 'load_model', lambda *args: model)


@pytest.fixture
def run_piped(monkeypatch):
    """Function of lines to a chat that reads them from a pipe."""

    def run(lines, *arguments):
        monkeypatch.setattr('sys.stdin', io.StringIO('\n'.join(lines)))
        return cli.main(['chat', *arguments])

    return run


@pytest.fixture
def number_word(scene) -> str:
    """The number of shapes in the image, as the model writes it."""
    return {1: 'one', 2: 'two', 3: 'three'}[len(scene.things)]
