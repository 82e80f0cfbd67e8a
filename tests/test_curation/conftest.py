# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Shared fixtures: images of the nano world, and steps that need no model."""

import random

import pytest

from minigpt4.curation.ledger import Ledger, Result
from minigpt4.nano.world import render, sample_scene


@pytest.fixture(scope='session')
def images(tmp_path_factory):
    """A folder with twelve images of the nano world: 00.png to 11.png."""
    folder = tmp_path_factory.mktemp('images')
    rng = random.Random(4)
    for i in range(12):
        scene = sample_scene(rng, held_out=True)
        render(scene, rng).save(folder / f'{i:02}.png')
    return folder


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path / 'ledger.sqlite') as opened:
        yield opened


class FixedTexts:
    """A first step that gives each image its text; None is a failure."""

    def __init__(self, texts, name='repair'):
        self.name, self.texts = name, texts
        self.settings = dict(name=name)

    def run(self, items):
        for item in items:
            text = self.texts[item.image.id]
            status = 'failed' if text is None else 'ok'
            yield Result(item.image.id, status, text or 'no answer', {})


@pytest.fixture
def fixed_texts():
    return FixedTexts
