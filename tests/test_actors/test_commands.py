# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Commands on actors, some of which end, write the bytes of one process.

The actors are in this process, but get copies of what they work on; those of
``test_ray`` are processes.
"""

import json
import random
import shutil
from pathlib import Path

import pytest
from tests.fake_ray import FakeRay, use_fake

from minigpt4.captioning import answers
from minigpt4.curation.ledger import Ledger
from minigpt4.engine import cache_features
from minigpt4.evaluation import question_run
from minigpt4.nano.world import render, sample_scene
from minigpt4.nano.write_dataset import write_dataset
from minigpt4_cli import main as cli

CONFIG = Path(__file__).parents[2] / 'configs/minigpt4/stage1_nano.py'
SHORT = ('--max-new-tokens', 8, '--slots', 1)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder: 20 scenes in ``images``, chunks of 8 items."""
    monkeypatch.chdir(tmp_path)
    for module in (answers, question_run):
        monkeypatch.setattr(module, 'CHUNK', 8)
    rng = random.Random(4)
    Path('images').mkdir()
    for i in range(20):
        render(sample_scene(rng), rng).save(f'images/{i:03d}.png')
    Path('images/007.png').write_bytes(b'no image')
    return tmp_path


@pytest.fixture
def actors(monkeypatch):
    """Begins the use of three actors, of which each fourth call ends one."""

    def use() -> FakeRay:
        calls = iter(range(1, 999))
        ray = FakeRay(lambda name, value: next(calls) % 4 == 0, pickled=True)
        return use_fake(monkeypatch, ray, 3)

    return use


def run(*words) -> int:
    return cli.main([*map(str, words), '-q'])


def test_captions(folder, actors):
    assert run('caption', 'images', *SHORT, '-o', 'one.jsonl') == 1
    ray = actors()
    assert run('caption', 'images', *SHORT, '-o', 'ray.jsonl') == 1
    assert ray.actors > 3
    one, ray = (Path(f'{x}.jsonl').read_bytes() for x in ('one', 'ray'))
    assert one == ray
    assert one.count(b'\n') == 20


@pytest.mark.parametrize('method', ['generate', 'likelihood'])
def test_an_evaluation(folder, actors, method):
    questions = [
        dict(
            question_id=i,
            image=f'{i // 2:03d}.png',
            text=f'Is there a {("red", "blue")[i % 2]} circle?',
            label=('yes', 'no')[i % 2],
        )
        for i in range(30)
    ]
    Path('pope.json').write_text('\n'.join(map(json.dumps, questions)))
    command = ('eval', 'pope', '--questions', 'pope.json', '--images')
    command = (*command, 'images', '--method', method, *SHORT, '-o')
    assert run(*command, 'one') == 1
    ray = actors()
    assert run(*command, 'ray') == 1
    assert ray.actors > 3
    for name in ('answers.jsonl', 'settings.json', 'summary.json'):
        assert Path('one', name).read_bytes() == Path('ray', name).read_bytes()


def test_a_curation(folder, actors):
    for package in ('datasketch', 'ftfy', 'imagehash', 'lingua'):
        pytest.importorskip(package, reason='needs the extra curate')
    Path('images/007.png').unlink()
    assert run('curate', 'add', 'images', '--ledger', 'one.sqlite') == 0
    shutil.copy('one.sqlite', 'ray.sqlite')
    command = ('curate', 'run', '--steps', 'describe,continue', '--set')
    command = (*command, 'describe.generation={max_new_tokens: 8}', '--set')
    command = (*command, 'describe.slots=1', '--ledger')
    assert run(*command, 'one.sqlite') == 0
    ray = actors()
    assert run(*command, 'ray.sqlite') == 0
    assert ray.actors > 2 * 3
    found = []
    for name in ('one', 'ray'):
        with Ledger(Path(f'{name}.sqlite')) as ledger:
            found.append(
                sorted(
                    (step, r.image, r.status, r.text, r.details['tokens'])
                    for step in (1, 2)
                    for r in ledger.results(step)
                )
            )
    assert found[0] == found[1]
    assert len(found[0]) == 2 * 19


def test_a_feature_cache(folder, actors, monkeypatch):
    monkeypatch.setattr(cache_features, 'BATCH_SIZE', 16)
    write_dataset(
        folder / 'data/nano', pairs=100, descriptions=4, test_scenes=4
    )
    command = ('cache-features', CONFIG, '--cfg-options')
    command = (*command, 'train_dataloader.num_workers=0', '-o')
    assert cli.main([*map(str, command), 'one']) == 0
    ray = actors()
    assert cli.main([*map(str, command), 'ray']) == 0
    assert ray.actors > 3
    names = sorted(path.name for path in Path('one').iterdir())
    assert names == sorted(path.name for path in Path('ray').iterdir())
    assert Path('one/0000.features').stat().st_size > 0
    for name in names:
        assert Path('one', name).read_bytes() == Path('ray', name).read_bytes()
