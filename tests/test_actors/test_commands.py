# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Commands on actors write the bytes of one process.

Each test runs with actors in this process, which get copies of what they
work on and of which some end, and with two actors of a Ray cluster.
"""

import json
import shutil
from pathlib import Path

import pytest
from tests.fake_ray import FakeRay, use_fake

from minigpt4.captioning import answers
from minigpt4.curation.ledger import Ledger
from minigpt4.engine import cache_features
from minigpt4.evaluation import question_run
from minigpt4.nano.write_dataset import write_dataset
from minigpt4_cli import main as cli

CONFIG = Path(__file__).parents[2] / 'configs/minigpt4/stage1_nano.py'
SHORT = ('--max-new-tokens', 8, '--slots', 1, '-q')


@pytest.fixture
def folder(tmp_path, monkeypatch, write_scenes):
    """The current folder: 20 scenes in ``images``, chunks of 8 items."""
    monkeypatch.chdir(tmp_path)
    for module in (answers, question_run):
        monkeypatch.setattr(module, 'CHUNK', 8)
    write_scenes(Path('images'), 20, broken=7)
    return tmp_path


@pytest.fixture(params=['fake', pytest.param('ray', marks=pytest.mark.slow)])
def run_on_actors(request, monkeypatch):
    """Function that runs a command on actors."""
    if request.param == 'ray':
        _, address = request.getfixturevalue('cluster')
        return lambda *words: run(*words, f'--ray={address}', '--actors', 2)

    def run_on_fake(*words):
        calls = iter(range(1, 999))  # of which each fourth ends an actor
        ray = FakeRay(lambda name, value: next(calls) % 4 == 0, pickled=True)
        with pytest.MonkeyPatch.context() as patch:
            status = run(*words) if use_fake(patch, ray, 3) else None
        assert ray.actors > 3
        return status

    return run_on_fake


def run(*words) -> int:
    return cli.main([*map(str, words)])


def assert_equal_files(*names):
    """Compare the files of one process with those of the actors."""
    for name in names:
        one, ray = (Path(f'{folder}/{name}') for folder in ('one', 'ray'))
        assert one.read_bytes() == ray.read_bytes(), name


def test_captions(folder, run_on_actors):
    command = ('caption', 'images', *SHORT, '-o')
    assert run(*command, 'one/captions.jsonl') == 1  # a file is no image
    assert run_on_actors(*command, 'ray/captions.jsonl') == 1
    assert_equal_files('captions.jsonl')
    assert Path('one/captions.jsonl').read_bytes().count(b'\n') == 20


@pytest.mark.parametrize('method', ['generate', 'likelihood'])
def test_an_evaluation(folder, run_on_actors, method):
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
    assert run_on_actors(*command, 'ray') == 1
    assert_equal_files('answers.jsonl', 'settings.json', 'summary.json')


def test_a_curation(folder, run_on_actors):
    for package in ('datasketch', 'ftfy', 'imagehash', 'lingua'):
        pytest.importorskip(package, reason='needs the extra curate')
    Path('images/007.png').unlink()
    assert run('curate', 'add', 'images', '--ledger', 'one.sqlite') == 0
    shutil.copy('one.sqlite', 'ray.sqlite')
    command = ('curate', 'run', '--steps', 'describe,continue', '--set')
    command = (*command, 'describe.generation={max_new_tokens: 8}', '--set')
    command = (*command, 'describe.slots=1', '--ledger')
    assert run(*command, 'one.sqlite') == 0
    assert run_on_actors(*command, 'ray.sqlite') == 0
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


def test_a_feature_cache(folder, run_on_actors, monkeypatch):
    monkeypatch.setattr(cache_features, 'BATCH_SIZE', 16)
    write_dataset(
        folder / 'data/nano', pairs=100, descriptions=4, test_scenes=4
    )
    command = ('cache-features', CONFIG, '--cfg-options')
    command = (*command, 'train_dataloader.num_workers=0', '-o')
    assert run(*command, 'one') == 0
    assert run_on_actors(*command, 'ray') == 0
    names = sorted(path.name for path in Path('one').iterdir())
    assert names == sorted(path.name for path in Path('ray').iterdir())
    assert Path('one/0000.features').stat().st_size > 0
    assert_equal_files(*names)
