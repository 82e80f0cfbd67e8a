# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The report of a reproduction."""

import json
import os
from datetime import datetime
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
from minigpt4.reproduction.steps import Step, done_file, log_file


@pytest.fixture
def folder(tmp_path):
    """A folder in which steps have run."""
    work = tmp_path / 'work'
    image = work / 'data/nano/test/image/7.jpg'
    image.parent.mkdir(parents=True)
    Image.new('RGB', (8, 8)).save(image)
    return work


def make_run(name, folder, text, seed=1):
    training = next(t for t in NANO.trainings if t.name == name)
    results = Path('runs', name if seed == 1 else f'{name}-{seed}', 'scenes')
    run = Run(training, seed, results.parent, 400, {'scenes': results})
    (folder / results).mkdir(parents=True)
    values = {f'nano/{key}': 0.5 for key in NANO.columns}
    (folder / results / 'scores.json').write_text(json.dumps(values))
    row = dict(id='7-describe', task='describe', answer='right')
    row['pred_caption'] = text
    answers = folder / results / 'answers.jsonl'
    answers.write_text(json.dumps(row) + '\n')
    end_test(run, 'scenes', folder)
    return run


def plan_of(runs, *steps):
    curves = Path('curves.svg')
    return SimpleNamespace(setup=NANO, runs=runs, steps=steps, curves=curves)


def end_test(run, test, folder):
    record = done_file(folder, run.test_step(test))
    record.parent.mkdir(exist_ok=True)
    record.write_text('{}')


def test_scores_of_runs_that_were_tested_are_read(folder):
    run = make_run('stage1', folder, '')
    other = run._replace(seed=2, results={'scenes': Path('missing')})
    found = read_scores(NANO, [run, other], folder, [])
    assert set(found) == {('stage1', 1)}
    assert found['stage1', 1]['recall'] == 0.5


def test_results_of_a_test_that_has_not_ended_are_not_shown(folder, tmp_path):
    runs = [make_run(name, folder, 'words') for name in ('stage1', 'stage2')]
    for run in runs:
        done_file(folder, run.test_step('scenes')).unlink()
    assert not read_scores(NANO, runs, folder, [])
    plan = plan_of(runs)
    write_report(tmp_path, folder, plan, dict(command='x'), [])
    assert 'words' not in (tmp_path / 'report.html').read_text()


@pytest.mark.parametrize('text', ['{"nano/poem": "abc"}', '[1]'])
def test_results_without_numbers_are_named(folder, text):
    run = make_run('stage1', folder, '')
    (folder / run.results['scenes'] / 'scores.json').write_text(text)
    problems = []
    assert not read_scores(NANO, [run], folder, problems)
    assert 'does not have a number for each score' in problems[0]


def test_scores_of_another_name_are_not_shown(folder, tmp_path):
    run = make_run('stage1', folder, '')
    path = folder / run.results['scenes'] / 'scores.json'
    path.write_text('{"nano/seed": 3, "nano/poem": 0.5}')
    write_report(tmp_path, folder, plan_of([run]), dict(command='x'), [])
    (row,) = json.loads((tmp_path / 'scores.json').read_text())['scores']
    assert row['seed'] == 1 and row['poem'] == 0.5


def test_names_that_are_no_text_do_not_prevent_the_report(folder, tmp_path):
    facts = dict(command='minigpt4 reproduce --small a\nb\udcff')
    write_report(tmp_path, folder, plan_of([]), facts, ['x\udcff failed'])
    first = (tmp_path / 'tables.md').read_text().splitlines()[0]
    assert first == r'command: minigpt4 reproduce --small a\nb\udcff  '
    assert r'x\udcff failed' in (tmp_path / 'report.html').read_text()


def test_each_machine_and_version_is_named_with_its_steps(folder, tmp_path):
    steps = [Step(name, ()) for name in ('one', 'two', 'three', 'four')]
    records = (
        dict(machine='A', versions='torch 1'),
        dict(machine='A', versions='torch 2'),
        dict(machine='A', versions='torch 2'),
    )
    for step, record in zip(steps, records, strict=False):
        path = done_file(folder, step.name)
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(record))
    plan = plan_of([], *steps)  # one has not ended

    def facts():
        write_report(tmp_path, folder, plan, dict(command='x'), [])
        return json.loads((tmp_path / 'scores.json').read_text())['facts']

    assert facts()['machine'] == 'A'
    assert facts()['versions'] == 'torch 2 (2 steps); torch 1 (1 step)'
    done_file(folder, 'one').write_text('damaged')
    assert facts()['machine'] == 'A (2 steps); not recorded (1 step)'


def test_a_missing_test_does_not_remove_the_scores_of_another(folder):
    def read(results):
        if results.name == 'missing':
            raise FileNotFoundError(results)
        return {'x': 0.1, 'not defined': None}

    tests = [NANO.tests[0]._replace(name=n, read=read) for n in ('a', 'b')]
    results = {'a': Path('there'), 'b': Path('missing')}
    run = Run(NANO.trainings[0], 1, Path('runs'), 4, results)
    setup = NANO._replace(tests=tuple(tests))
    folder.mkdir(exist_ok=True)
    for name in results:
        end_test(run, name, folder)
    found = read_scores(setup, [run], folder, [])
    assert found == {('stage1', 1): {'x': 0.1, 'not defined': None}}


def test_the_page_has_tables_problems_and_answers(folder, tmp_path):
    runs = [
        make_run('stage1', folder, 'a <b>broken'),
        make_run('stage2', folder, 'a good one'),
    ]
    facts = dict(command='minigpt4 reproduce --nano', date='2026-11-29')
    problems = ['train_x failed: <no>']
    plan = plan_of(runs)
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
    assert '## Not finished\n\n- train_x failed: <no>\n\n##' in tables
    assert '| stage2 | 1 |' in tables
    assert '| descriptions broken | 0.500 to 0.500 |' in tables
    check_report(tmp_path)  # an older report may be replaced


def test_answers_before_and_after_are_of_one_seed(folder, tmp_path):
    runs = [
        make_run(name, folder, f'{name} of seed {seed}', seed)
        for seed in (1, 2)
        for name in ('stage1', 'stage2')
    ]
    plan = plan_of(runs)
    done_file(folder, runs[1].test_step('scenes')).unlink()
    write_report(tmp_path, folder, plan, dict(command='x'), [])
    page = (tmp_path / 'report.html').read_text()
    assert 'before and after stage 2, seed 2' in page
    assert 'Before: stage1 of seed 2' in page
    assert 'stage1 of seed 1' not in page
    done_file(folder, runs[2].test_step('scenes')).unlink()
    write_report(tmp_path, folder, plan, dict(command='x'), [])
    assert 'Before: ' not in (tmp_path / 'report.html').read_text()


@pytest.mark.parametrize('name', ['scores.json', 'answers.jsonl'])
@pytest.mark.parametrize('content', ['not JSON', '[1]'])
def test_a_damaged_result_is_a_problem_of_the_report(
    folder, tmp_path, name, content
):
    runs = [make_run(n, folder, 'words') for n in ('stage1', 'stage2')]
    plan = plan_of(runs)
    damaged = folder / runs[1].results['scenes'] / name
    damaged.write_text(content)
    found = write_report(tmp_path, folder, plan, dict(command='x'), ['one'])
    assert len(found) == 1
    file = damaged if content == 'not JSON' else damaged.parent
    assert f': {file}' in found[0]
    assert found[0].endswith('delete it, and the same command tests again')
    stored = json.loads((tmp_path / 'scores.json').read_text())
    assert stored['problems'] == ['one', *found]
    tested = [row['training'] for row in stored['scores']]
    assert tested[0] == 'stage1'
    assert ('stage2' in tested) == (name == 'answers.jsonl')


def test_a_damaged_image_is_absent_in_the_report(folder, tmp_path):
    runs = [make_run(n, folder, 'words') for n in ('stage1', 'stage2')]
    plan = plan_of(runs)
    image = folder / 'data/nano/test/image/7.jpg'
    image.write_bytes(b'x' * image.stat().st_size)
    found = write_report(tmp_path, folder, plan, dict(command='x'), [])
    assert len(found) == 1 and str(image) in found[0]
    page = (tmp_path / 'report.html').read_text()
    assert 'Before: words' in page and 'image/jpeg' not in page


def test_the_report_has_the_days_on_which_steps_ended(folder, tmp_path):
    names = 'first', 'second', 'not ended'
    plan = plan_of([], *(Step(name, ()) for name in names))
    found = []
    for days in (0, 1, 2):
        if days:
            record = done_file(folder, names[days - 1])
            record.parent.mkdir(exist_ok=True)
            record.touch()
            noon = datetime(2026, 11, 28 + days, 12).timestamp()
            os.utime(record, (noon, noon))
        write_report(tmp_path, folder, plan, dict(command='x'), [])
        stored = json.loads((tmp_path / 'scores.json').read_text())
        found.append(stored['facts']['steps ended'])
    assert found == ['none', '2026-11-29', '2026-11-29 to 2026-11-30']


def test_the_page_says_which_trainings_have_no_curve(folder, tmp_path):
    plan = plan_of([])
    log = log_file(folder, 'curves')
    log.parent.mkdir()
    log.write_text('runs/a: no curve, since <x>\nruns/b: 1 logs, 9 steps\n')
    (folder / 'curves.svg').write_text('<svg/>')
    write_report(tmp_path, folder, plan, dict(command='x'), [])
    page = (tmp_path / 'report.html').read_text()
    assert 'src="data:image/svg+xml;base64,' in page
    assert '>runs/a: no curve, since &lt;x&gt;<' in page
    assert 'runs/b' not in page


def test_another_page_is_not_replaced(tmp_path):
    (tmp_path / 'report.html').write_text('<title>Mine</title>')
    with pytest.raises(ValueError, match='is not a report of a reproduction'):
        check_report(tmp_path)


@pytest.mark.parametrize('name', ['tables.md', 'scores.json'])
def test_other_files_are_not_replaced(tmp_path, name):
    (tmp_path / name).write_text('{"mine": 1}')
    with pytest.raises(ValueError, match=f'{name} exists and is not of a rep'):
        check_report(tmp_path)
