# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""``minigpt4 curate review`` and the exchange of reviews with files."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request

import pytest

pytest.importorskip('datasketch', reason='needs minigpt4[curate]')

from tests.review_ledger import make_ledger

from minigpt4.curation.ledger import Ledger, Result
from minigpt4.curation.pipeline import plan
from minigpt4.curation.settings import (
    CurationSettings,
    build_steps,
    dump_settings,
)
from minigpt4_cli.main import main


@pytest.fixture
def ledger(tmp_path):
    settings = CurationSettings()
    with make_ledger(tmp_path, steps=build_steps(settings)) as opened:
        opened.save_settings(dump_settings(settings))
        return str(opened.path)


def decisions(ledger):
    with Ledger(ledger) as opened:
        return {
            (r.image, r.reviewer): r.decision for r in opened.reviews.latest()
        }


def test_the_table_makes_the_round_trip(ledger, tmp_path, capsys):
    table = tmp_path / 'review.csv'
    words = ['--ledger', ledger]
    command = ['curate', 'export-review', str(table), '--limit', '3', *words]
    assert main(command) == 0
    assert '3 texts written to' in capsys.readouterr().err
    with open(table, encoding='utf-8-sig', newline='') as file:
        rows = list(csv.DictReader(file))
    places = {row['file']: place for place, row in enumerate(rows)}
    assert places['image5.png'] < places['image3.png']  # by risk
    rows[places['image5.png']]['decision'] = 'accept'
    rows[places['image3.png']]['decision'] = 'remove'
    (other,) = {*range(3)} - {places['image5.png'], places['image3.png']}
    rows[other]['note'] = 'blurred'
    with open(table, 'w', encoding='utf-8', newline='') as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    command = ['curate', 'import-review', str(table), *words]
    assert main([*command, '--reviewer', 'Ann']) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        f'wrong: row {places["image3.png"] + 2}: the decision is "remove"; '
        'expected one of accept, edit, reject.',
        f'note: row {other + 2}: there is a note but no decision, so the '
        'note is not stored; write a decision too.',
        '1 decisions stored, 1 without a decision, 1 notes not stored, '
        '1 wrong',
    ]
    assert decisions(ledger) == {(5, 'Ann'): 'accept'}


def test_label_studio_makes_the_round_trip(ledger, tmp_path, capsys):
    path = tmp_path / 'tasks.json'
    words = ['curate', 'label-studio', '--ledger', ledger]
    assert main([*words, 'export', str(path), '--limit', '1']) == 0
    assert 'tasks.xml' in capsys.readouterr().err
    tasks = json.loads(path.read_text())
    value = dict(choices=['reject'])
    result = dict(from_name='decision', type='choices', value=value)
    tasks[0]['annotations'] = [dict(completed_by=5, result=[result])]
    path.write_text(json.dumps(tasks))
    assert main([*words, 'import', str(path)]) == 0
    digest = tasks[0]['data']['image_digest']
    with Ledger(ledger) as opened:
        (image,) = (i.id for i in opened.images() if i.digest == digest)
    assert decisions(ledger) == {(image, 'label-studio-5'): 'reject'}


@pytest.mark.parametrize(
    'words',
    [
        ['export-review', 'review.csv'],
        ['export-review', 'review.html'],
        ['label-studio', 'export', 'tasks.json'],
    ],
)
def test_images_that_are_omitted_are_named(
    ledger, tmp_path, monkeypatch, capsys, words
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'image1.png').unlink()
    (tmp_path / 'image2.png').write_bytes(b'another file')
    assert main(['curate', *words, '--ledger', ledger]) == 1
    lines = capsys.readouterr().err.splitlines()[1:]
    assert lines[:2] == [
        '1 without their image: the file is missing',
        '1 without their image: the file has changed since it was added',
    ]
    assert 'image1.png does not exist; restore it, or add the' in lines[2]
    assert 'image2.png is not the file that was added' in lines[3]
    assert len(lines) == 4 and (tmp_path / words[-1]).exists()


@pytest.mark.parametrize(
    'words, existing',
    [
        (['export-review', 'review.csv'], 'review.csv'),
        (['export-review', 'review.html'], 'review.html'),
        (['label-studio', 'export', 'tasks.json'], 'tasks.json'),
        (['label-studio', 'export', 'tasks.json'], 'tasks.xml'),
    ],
)
def test_a_file_with_decisions_is_not_replaced(
    ledger, tmp_path, monkeypatch, capsys, words, existing
):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / existing
    file.write_text('decisions of a person')
    words = ['curate', *words, '--ledger', ledger]
    assert main(words) == 1
    assert capsys.readouterr().err == (
        f'error: {existing} exists; it may have decisions: import it first, '
        'give another name, or --overwrite.\n'
    )
    assert file.read_text() == 'decisions of a person'
    assert main([*words, '--overwrite']) == 0
    assert file.read_text() != 'decisions of a person'


def test_tasks_and_their_configuration_are_two_files(tmp_path, capsys):
    path = tmp_path / 'tasks.xml'
    with pytest.raises(SystemExit):
        main(['curate', 'label-studio', 'export', str(path)])
    assert 'tasks.xml is not .json' in capsys.readouterr().err
    assert not path.exists()


def test_options_may_be_on_both_sides_of_an_action(ledger, tmp_path, capsys):
    path = str(tmp_path / 'tasks.json')
    words = ['curate', 'label-studio', 'export', path, '--ledger', ledger]
    assert main([*words, '--debug']) == 0
    config = tmp_path / 'settings.yml'
    config.write_text('')
    missing = str(tmp_path / 'none.json')
    words = ['curate', 'label-studio', 'import', missing]
    assert main([*words, '--ledger', ledger, '--config', str(config)]) == 1
    assert 'none.json does not exist' in capsys.readouterr().err


@pytest.mark.parametrize('place', [2, 4])
def test_settings_on_either_side_of_an_action_count(
    ledger, tmp_path, capsys, place
):
    words = ['curate', 'label-studio', 'export', str(tmp_path / 't.json')]
    words[place:place] = ['--set', 'review.guard_weight=-1']
    words += ['--set', 'review.object_weight=3', '--ledger', ledger]
    assert main(words) == 1
    assert 'review.guard_weight is -1' in capsys.readouterr().err


@pytest.mark.parametrize('action', ['review', 'export-review'])
def test_steps_of_other_settings_are_named(ledger, tmp_path, capsys, action):
    words = ['curate', action]
    if action == 'export-review':
        words.append(str(tmp_path / 'review.csv'))
    words += ['--ledger', ledger, '--set', 'rules.min_words=3']
    assert main(words) == 1
    assert capsys.readouterr().err == (
        f'error: {ledger} has texts of other settings only: the steps were '
        'not run with these settings; run them first: minigpt4 curate run '
        f'--ledger {ledger} --set rules.min_words=3\n'
    )


def test_no_text_yet_and_no_text_left_are_distinguished(tmp_path, capsys):
    path = tmp_path / 'curation.sqlite'
    words = ['curate', 'review', '--ledger', str(path)]
    with Ledger(path) as opened:
        opened.add_images([('a', '/a.png', {})])
    assert main(words) == 1
    assert (
        'has no texts to review yet; run the automatic steps first: minigpt4 '
        f'curate run --ledger {path}\n'
    ) in capsys.readouterr().err
    with Ledger(path) as opened:
        (first, *_) = plan(opened, build_steps(CurationSettings()))
        opened.add_results(first.number, [Result(1, 'dropped', '', {})])
    assert main(words) == 1
    assert (
        'with these settings each image was dropped or failed; the reasons '
        f'are printed by: minigpt4 curate status --ledger {path}\n'
    ) in capsys.readouterr().err


def test_wrong_calls_are_refused(ledger, tmp_path, capsys):
    words = ['--ledger', ledger]
    with pytest.raises(SystemExit):
        main(['curate', 'export-review', 'file.txt', *words])
    assert 'neither .html nor .csv' in capsys.readouterr().err
    missing = str(tmp_path / 'none.csv')
    assert main(['curate', 'import-review', missing, *words]) == 1
    assert 'does not exist' in capsys.readouterr().err
    other = ['--ledger', str(tmp_path / 'other.sqlite')]
    assert main(['curate', 'review', *other]) == 1
    assert 'curate add' in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(['curate', 'review', '--port', '99999', *words])
    assert '99999 is not a port' in capsys.readouterr().err


def test_the_page_is_served_until_a_signal(ledger):
    pytest.importorskip('fastapi', reason='needs minigpt4[serve]')
    process = subprocess.Popen(
        [sys.executable, '-m', 'minigpt4_cli.main', 'curate', 'review']
        + ['--ledger', ledger, '--port', '0'],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=dict(os.environ, PYTHONUNBUFFERED='1'),
    )
    try:
        lines = []
        while not lines or 'texts to review' not in lines[-1]:
            lines.append(process.stdout.readline())
            assert lines[-1], lines
        url = re.search(r'http://127\.0\.0\.1:\d+/', lines[-1])[0]
        with urllib.request.urlopen(url) as response:
            assert b'Review' in response.read()
        process.send_signal(signal.SIGINT)
        assert process.wait(300) == 130
        output = process.stdout.read()
        assert 'All decisions are stored' in output
        assert 'Traceback' not in output
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
