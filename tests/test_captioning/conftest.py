# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Shared fixtures: the nano model, and rendered scenes as image files."""

import random

import pytest

import minigpt4
from minigpt4 import loading
from minigpt4.captioning import run
from minigpt4.generation.engine import Engine
from minigpt4.nano.world import render, sample_scene

NAME = 'minigpt-4_nano_caption'


@pytest.fixture(scope='package')
def model():
    return minigpt4.get_model(NAME, device='cpu').eval()


@pytest.fixture(scope='package')
def scenes():
    """Six scenes of the nano world, and an image of each."""
    rng = random.Random(4)
    scenes = [sample_scene(rng, held_out=True) for _ in range(6)]
    return scenes, [render(scene, rng) for scene in scenes]


@pytest.fixture
def folder(scenes, tmp_path, monkeypatch):
    """The current folder; its subfolder ``images`` has three images."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'images').mkdir()
    for i, image in enumerate(scenes[1][:3]):
        image.save(tmp_path / 'images' / f'{i}.png')
    return tmp_path


@pytest.fixture
def loads(model, monkeypatch):
    """The command with the shared model; one item for each load."""
    calls = []

    def load(*args):
        calls.append(args)
        return model

    monkeypatch.setattr(loading, 'load_model', load)
    monkeypatch.setattr(run, 'load_model', load)
    return calls


@pytest.fixture
def requests(monkeypatch):
    """The sampling parameters of each request to an engine."""
    submitted = []
    submit = Engine.submit

    def record(self, row, images, **settings):
        submitted.append(settings)
        return submit(self, row, images, **settings)

    monkeypatch.setattr(Engine, 'submit', record)
    return submitted
