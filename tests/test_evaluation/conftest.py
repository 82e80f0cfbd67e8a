# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Shared fixtures: scenes of the nano world with captions and classes."""

import json
import os
import random
from pathlib import Path

import pytest

import minigpt4
from minigpt4.nano import grammar
from minigpt4.nano.world import render, sample_scene

NAME = 'minigpt-4_nano_caption'


@pytest.fixture(scope='package')
def model():
    return minigpt4.get_model(NAME, device='cpu').eval()


@pytest.fixture(scope='session')
def evaluation_data() -> Path:
    """The folder of published captions with their truth."""
    folder = os.environ.get('MINIGPT4_EVALUATION')
    if not folder:
        pytest.skip(
            'MINIGPT4_EVALUATION does not name the folder of published '
            'captions (chair/)'
        )
    return Path(folder)


@pytest.fixture(scope='session')
def photos() -> Path:
    """The folder of photographs with captions."""
    folder = os.environ.get('MINIGPT4_PHOTOS')
    if not folder:
        pytest.skip('MINIGPT4_PHOTOS does not name a folder of photographs')
    return Path(folder)


@pytest.fixture
def nano_set(tmp_path) -> Path:
    """Folder of 18 scenes in ``images``, ``captions.json`` in COCO's layout.

    Each scene has its description and, of the first ones, a second caption.
    """
    rng = random.Random(3)
    (tmp_path / 'images').mkdir()
    images, annotations = [], []
    for number in range(18):
        scene = sample_scene(rng, held_out=True)
        name = f'{number:03d}.png'
        render(scene, rng).save(tmp_path / 'images' / name)
        images.append(dict(id=number, file_name=name))
        texts = [grammar.description(scene)]
        if number < 3:
            texts.append(grammar.caption(scene, rng))
        annotations += [
            dict(id=100 * number + i, image_id=number, caption=text)
            for i, text in enumerate(texts)
        ]
    (tmp_path / 'captions.json').write_text(
        json.dumps(dict(images=images, annotations=annotations))
    )
    return tmp_path
