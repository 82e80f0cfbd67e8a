# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The nano model and its scenes, for tests of the HTTP API."""

import random

import pytest

import minigpt4
from minigpt4.nano.world import render, sample_scene


@pytest.fixture(scope='module')
def model():
    return minigpt4.get_model('minigpt-4_nano_caption', device='cpu').eval()


@pytest.fixture(scope='module')
def scenes():
    rng = random.Random(5)
    scenes = [sample_scene(rng, held_out=True) for _ in range(8)]
    return [(scene, render(scene, rng)) for scene in scenes]
