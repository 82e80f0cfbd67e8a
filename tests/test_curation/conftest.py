# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Shared fixtures: images of the nano world, and steps that need no model."""

import hashlib
import random
from pathlib import Path

import pytest

from minigpt4.curation.ledger import Ledger, LedgerImage, Result
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


@pytest.fixture
def added():
    """Makes the ledger's image of a file, which may be missing."""

    def make(number, path, **details):
        path = Path(path)
        data = path.read_bytes() if path.exists() else b''
        digest = hashlib.sha256(data).hexdigest()
        return LedgerImage(number, digest, str(path), details)

    return make


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
