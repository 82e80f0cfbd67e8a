# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Shared fixtures: the nano model with its explanation, and a sequence."""

from pathlib import Path

import pytest

import minigpt4
from minigpt4.captioning.inferencer import make_sample
from minigpt4.explain.explanation import explain

SCENE = Path(__file__).parents[2] / 'demo' / 'scene.png'


@pytest.fixture(scope='package')
def nano():
    return minigpt4.get_model('minigpt-4_nano_caption', device='cpu').eval()


@pytest.fixture(scope='package')
def nano_explanation(nano):
    """The explanation of the caption of demo/scene.png."""
    return explain(nano, make_sample([SCENE], nano.prompt, 64))
