# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Both sides of the rows of the small model; nothing is timed."""

import importlib
import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch

HERE = Path(__file__).parent.parent / 'benchmarks'
ANSWERS = ['A red circle.', 'The sky is blue. The cat is on the sofa.', 'Sky.']
NEW_TOKENS = 9


@pytest.fixture
def small(monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))
    return importlib.import_module('small')


@pytest.fixture
def images():
    draw = np.random.RandomState(0)
    pixels = draw.randint(0, 256, (6, 3, 28, 28), dtype=np.uint8)
    return list(torch.from_numpy(pixels))


@pytest.fixture
def sides(small, build_tiny, chat_llm_dir):
    """Function of settings to both sides, with a tiny model of ChatML."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    def make(**settings):
        folder = chat_llm_dir('smollm2')
        settings = dict(prompt_template='chat') | settings

        def model():
            return build_tiny(
                decoder=dict(name_or_path=str(folder)),
                generation=dict(max_new_tokens=NEW_TOKENS),
                **settings,
            )

        plain = small.Plain(
            model(),
            AutoModelForCausalLM.from_pretrained(folder),
            AutoTokenizer.from_pretrained(folder),
        )
        return small.Ours(model()), plain

    return make


@pytest.fixture
def guards(small):
    """Work once on each side; returns the guards, and whether they agree."""
    harness = importlib.import_module('harness')

    def compare(sides, *task):
        found = []
        for side in sides:
            work, guard = small.work_of(side, *task)
            work()
            found.append({k: np.asarray(v) for k, v in guard.items()})
        return found, harness.compare_guards(*found, small.TOLERANCE)

    return compare


def test_captions(small, sides, guards, images, monkeypatch):
    monkeypatch.setattr(small, 'SLOTS', 4)
    (ours, _), (same, text) = guards(sides(), 'caption', images)
    assert same, text
    assert len(ours['lengths']) == 6 and max(ours['lengths']) == NEW_TOKENS
    # the answers tell images apart, so the guard can fail
    first = np.split(ours['ids'], np.cumsum(ours['lengths']))[:-1]
    assert len({tuple(ids) for ids in first}) > 1


def test_first_tokens(small, sides, guards, images):
    (ours, _), (same, text) = guards(sides(), 'ttft', images)
    assert same, text
    assert len(ours['ids']) == small.GUARD_REPEATS


@pytest.mark.parametrize('task', ['stage-1', 'stage-2', 'stage-1-cached'])
def test_training_steps(small, sides, guards, images, task):
    stage = small.STAGES[task.removesuffix(small.CACHED)]
    # long answers are cut on both sides
    made = sides(**{**stage.settings, 'max_text_length': 8})
    images = images[: len(ANSWERS)]
    if task.endswith(small.CACHED):
        features = [small.store_features(side.model, images) for side in made]
        assert torch.equal(features[0][1], features[1][1])
        images = features[0]
    (ours, _), (same, text) = guards(made, task, images, ANSWERS)
    assert same, text
    assert ours['loss'] > 0
    assert set(ours) == {'loss', 'gradient_0', 'gradient_1'}


def test_another_answer_fails_the_guard(small, sides, images):
    harness = importlib.import_module('harness')
    made = sides(max_text_length=160)
    found = [
        small.work_of(side, 'stage-2', images[:1], [answer])[1]
        for side, answer in zip(made, ('The sky.', 'The cat.'))
    ]
    assert not harness.compare_guards(*found, small.TOLERANCE)[0]


def test_photographs(small, tmp_path):
    caption = 'a small dog and {} run over the green grass near {} river'
    for part in ('test', 'train'):
        content = dict(
            images=[dict(id=i, file_name=f'{i}.jpg') for i in (3, 1, 2)],
            annotations=[
                dict(
                    image_id=i,
                    caption=caption.format(word, word * 2) + ' ' + more,
                )
                for i in (1, 3)
                for word, more in (
                    ('ducks', 'while three women talk about old stories'),
                    ('horses', 'under heavy clouds behind wooden houses'),
                    ('cows', 'where tourists photograph ancient bridges'),
                )
            ],
        )
        (tmp_path / f'captions_{part}.json').write_text(json.dumps(content))
    chosen = small.choose_photographs(tmp_path, 1)
    assert chosen.test == [str(tmp_path / 'test' / '3.jpg')]
    assert chosen.train == [str(tmp_path / 'train' / '3.jpg')]
    assert chosen.captions[0].startswith('a small dog and ducks')
    assert len(chosen.descriptions[0].split()) >= 40
    assert len(small.choose_photographs(tmp_path, 9).test) == 2


def test_wall_times_are_stored(small, tmp_path):
    file = tmp_path / 'times.json'
    once = small.timed(lambda: time.sleep(0.02), file)
    cpu = [once(), once()]
    walls = json.loads(file.read_text())
    assert len(walls) == 2 and min(walls) >= 0.02
    assert all(0 <= a < b for a, b in zip(cpu, walls))


def test_wall_times_have_a_row_of_their_own(small, tmp_path, monkeypatch):
    walls = iter([2.0, 4.0])

    def compare(name, ours, peer, unit, goal, **settings):
        for side in small.SIDES:
            (tmp_path / f'caption-{side}.json').write_text(
                json.dumps([next(walls), 9.0])
            )
        return small.harness.row(name, 1.0, unit, guard_ok=True, repeats=2)

    monkeypatch.setattr(small.harness, 'compare', compare)
    cpu, wall = small.compare('caption', tmp_path, 7)
    assert (cpu['name'], cpu['unit']) == ('small caption', 'captions/CPU-s')
    assert (wall['name'], wall['unit']) == ('small caption wall', 'captions/s')
    assert wall['ours'] == small.PHOTOGRAPHS / 2 and wall['ratio'] == 2
    assert wall['median']['ratio'] == (4 + 9) / (2 + 9)
    assert wall['command'] == 'python benchmarks/run.py small'


def test_without_photographs_the_rows_are_skipped(small, monkeypatch):
    monkeypatch.delenv(small.PHOTOS_VARIABLE, raising=False)
    rows = list(small.measure(1))
    assert len(rows) == len(small.TASKS)
    assert all(small.PHOTOS_VARIABLE in row['skipped'] for row in rows)
