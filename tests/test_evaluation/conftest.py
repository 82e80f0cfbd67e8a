# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Shared fixtures: scenes of the nano world with captions and classes."""

import json
import os
import random
from pathlib import Path

import pytest

import minigpt4
from minigpt4.evaluation import (
    generated_answers,
    match_run,
    question_run,
)
from minigpt4.evaluation.match import score_losses
from minigpt4.evaluation.pope import POPE
from minigpt4.evaluation.question_scores import question_summary
from minigpt4.evaluation.result_folder import ResultFolder
from minigpt4.nano import grammar
from minigpt4.nano.world import render, sample_scene
from minigpt4_cli import main as cli

NAME = 'minigpt-4_nano_caption'


@pytest.fixture(scope='package')
def model():
    return minigpt4.get_model(NAME, device='cpu').eval()


@pytest.fixture
def loads(model, monkeypatch):
    """The commands with the shared model; one item for each load."""
    calls = []

    def load(*args):
        calls.append(args)
        return model

    for module in (generated_answers, match_run, question_run):
        monkeypatch.setattr(module, 'load_model', load)
    return calls


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


@pytest.fixture
def pope_folder(tmp_path):
    """Writes a result folder of pope.

    Each answer is ``(id, image, question, label, answer)``.
    """

    def write(name, answers, parser='official', prompt='{question}', **more):
        settings = dict(
            model='nano', prompt=prompt, count=len(answers), **more
        )
        rows = [
            dict(
                number=number,
                id=id_,
                image=image,
                file=f'{image}.png',
                prompt=prompt.replace('{question}', question),
                truth=dict(label=label),
                choices=['yes', 'no'],
                answer=answer,
            )
            for number, (id_, image, question, label, answer) in enumerate(
                answers
            )
        ]
        scoring = dict(parser=parser)
        folder = tmp_path / name
        with ResultFolder(folder, 'pope', settings, 'answers.jsonl') as out:
            out.add(rows)
            out.write_summary(
                question_summary(POPE, rows, settings, scoring, 50)
            )
        return folder

    return write


@pytest.fixture
def match_folder(tmp_path):
    """Writes a result folder of match, of ``(image, loss, other_loss)``."""

    def write(name, losses, **settings):
        rows = [
            dict(
                image=image,
                id=7,
                caption=f'caption of {image}',
                other_image='x',
                tokens=2,
                loss=loss,
                other_loss=other,
            )
            for image, loss, other in losses
        ]
        folder = tmp_path / name
        with ResultFolder(folder, 'match', settings, 'losses.jsonl') as out:
            out.add(rows)
            out.write_summary(score_losses(rows, resamples=50))
        return folder

    return write


@pytest.fixture
def chair_folder(tmp_path):
    """Writes a result folder of chair, of image ids and captions."""

    def write(name, captions, truth, **more):
        file = tmp_path / f'{name}.jsonl'
        rows = [dict(image_id=i, caption=text, **more) for i, text in captions]
        file.write_text('\n'.join(map(json.dumps, rows)))
        truth_file = tmp_path / f'{name}-truth.json'
        truth_file.write_text(json.dumps(truth))
        folder = tmp_path / name
        options = ['--captions', file, '--truth', truth_file, '-o', folder]
        assert cli.main(['eval', 'chair', *map(str, options)]) == 0
        return folder

    return write
