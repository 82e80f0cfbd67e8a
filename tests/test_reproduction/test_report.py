# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The report of a reproduction."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from minigpt4.reproduction.nano import NANO
from minigpt4.reproduction.plan import Run
from minigpt4.reproduction.report import (
    check_report,
    read_scores,
    write_report,
)


@pytest.fixture
def folder(tmp_path):
    """A folder in which steps have run."""
    work = tmp_path / 'work'
    image = work / 'data/nano/test/image/7.jpg'
    image.parent.mkdir(parents=True)
    Image.new('RGB', (8, 8)).save(image)
    return work


def make_run(name, folder, text):
    training = next(t for t in NANO.trainings if t.name == name)
    results = Path('runs', name, 'scenes')
    run = Run(training, 1, results.parent, 400, {'scenes': results})
    (folder / results).mkdir(parents=True)
    values = {f'nano/{key}': 0.5 for key in NANO.columns}
    (folder / results / 'scores.json').write_text(json.dumps(values))
    row = dict(id='7-describe', task='describe', answer='right')
    row['pred_caption'] = text
    answers = folder / results / 'answers.jsonl'
    answers.write_text(json.dumps(row) + '\n')
    return run


def test_scores_of_runs_that_were_tested_are_read(folder):
    run = make_run('stage1', folder, '')
    other = run._replace(seed=2, results={'scenes': Path('missing')})
    found = read_scores(NANO, [run, other], folder)
    assert set(found) == {('stage1', 1)}
    assert found['stage1', 1]['recall'] == 0.5


def test_a_missing_test_does_not_remove_the_scores_of_another(folder):
    def read(results):
        if results.name == 'missing':
            raise FileNotFoundError(results)
        return {'x': 0.1, 'not defined': None}

    tests = [NANO.tests[0]._replace(name=n, read=read) for n in ('a', 'b')]
    results = {'a': Path('there'), 'b': Path('missing')}
    run = Run(NANO.trainings[0], 1, Path('runs'), 4, results)
    setup = NANO._replace(tests=tuple(tests))
    assert read_scores(setup, [run], folder) == {('stage1', 1): {'x': 0.1}}


def test_the_page_has_tables_problems_and_answers(folder, tmp_path):
    runs = [
        make_run('stage1', folder, 'a <b>broken'),
        make_run('stage2', folder, 'a good one'),
    ]
    facts = dict(command='minigpt4 reproduce --nano', date='2026-11-29')
    problems = ['train_x failed: <no>']
    plan = SimpleNamespace(setup=NANO, runs=runs, curves=Path('curves.svg'))
    write_report(tmp_path, folder, plan, facts, problems)
    page = (tmp_path / 'report.html').read_text()
    for text in (
        'date: 2026-11-29',
        'train_x failed: &lt;no&gt;',
        'Claims of the paper',
        'a &lt;b&gt;broken',
        'a good one',
        'src="data:image/jpeg;base64,',
    ):
        assert text in page
    assert '<script' not in page
    stored = json.loads((tmp_path / 'scores.json').read_text())
    assert [(row['training'], row['folder']) for row in stored['scores']] == [
        ('stage1', 'runs/stage1'),
        ('stage2', 'runs/stage2'),
    ]
    assert stored['facts']['folder'] == 'work'
    moved = [run._replace(folder=Path('runs/other')) for run in runs]
    plan.runs = moved
    write_report(tmp_path / 'b', folder, plan, facts, problems)
    other = json.loads((tmp_path / 'b' / 'scores.json').read_text())
    assert other['facts']['settings'] != stored['facts']['settings']
    tables = (tmp_path / 'tables.md').read_text()
    assert tables.startswith('command: minigpt4 reproduce --nano  \ndate: ')
    assert '| stage2 | 1 |' in tables
    assert '| descriptions broken | 0.500 to 0.500 |' in tables
    check_report(tmp_path)  # an older report may be replaced


def test_another_page_is_not_replaced(tmp_path):
    (tmp_path / 'report.html').write_text('<title>Mine</title>')
    with pytest.raises(ValueError, match='is not a report of a reproduction'):
        check_report(tmp_path)


@pytest.mark.parametrize('name', ['tables.md', 'scores.json'])
def test_other_files_are_not_replaced(tmp_path, name):
    (tmp_path / name).write_text('{"mine": 1}')
    with pytest.raises(ValueError, match=f'{name} exists and is not of a rep'):
        check_report(tmp_path)
