# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""``minigpt4 eval pope`` and ``aokvqa``: answers, parts, continued runs."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from minigpt4_cli import main as cli


@pytest.fixture
def pope(nano_set):
    """Options of ``pope`` with 24 questions about 12 images."""
    file = nano_set / 'pope.json'
    file.write_text(
        ''.join(
            json.dumps(
                dict(
                    question_id=i,
                    image=f'{i // 2:03d}.png',
                    text=f'Is there a {("red", "blue")[i % 2]} circle?',
                    label=('yes', 'no')[i % 2],
                )
            )
            + '\n'
            for i in range(24)
        )
    )
    return [
        *('pope', '--questions', file, '--images', nano_set / 'images'),
        *('--max-new-tokens', 12),
    ]


@pytest.fixture
def aokvqa(nano_set):
    file = nano_set / 'aokvqa.json'
    file.write_text(
        json.dumps(
            [
                dict(
                    question_id=f'q{i}',
                    image_id=f'{i:03d}',
                    question='How many shapes are there?',
                    choices=['1', '2', '3', '4'],
                    correct_choice_idx=i % 4,
                    direct_answers=['1'] * 10,
                )
                for i in range(6)
            ]
        )
    )
    return ['aokvqa', '--questions', file, '--images', nano_set / 'images']


def run(*options) -> int:
    try:
        return cli.main(['eval', *map(str, options)])
    except SystemExit as error:  # of a wrong command line
        return error.code


def rows(folder, name='answers.jsonl'):
    return [json.loads(x) for x in (folder / name).read_text().splitlines()]


def summary(folder):
    return json.loads((folder / 'summary.json').read_text())


def by_number(items):
    return sorted(items, key=lambda row: row['number'])


def test_answers_are_stored_and_two_runs_are_equal(
    tmp_path, pope, loads, capsys
):
    assert run(*pope, '-o', tmp_path / 'a') == 0
    assert 'pope: 24 answers about 12 images' in capsys.readouterr().out
    assert run(*pope, '-o', tmp_path / 'b') == 0
    first, second = (
        (tmp_path / name / 'answers.jsonl').read_bytes() for name in 'ab'
    )
    assert first == second
    assert summary(tmp_path / 'a') == summary(tmp_path / 'b')
    (row, *_) = by_number(rows(tmp_path / 'a'))
    assert row['id'] == 0
    assert row['prompt'] == 'Is there a red circle?'
    assert row['truth'] == {'label': 'yes'}
    assert row['answer']
    assert row['tokens'] <= 12
    # nothing is left to answer
    assert run(*pope, '-o', tmp_path / 'a') == 0
    assert len(loads) == 2


def test_an_interrupted_run_continues_with_the_next_question(
    tmp_path, pope, loads
):
    out = tmp_path / 'out'
    assert run(*pope, '-o', out) == 0
    complete, scores = rows(out), summary(out)['scores']
    file = out / 'answers.jsonl'
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b''.join(lines[:10]) + lines[10][:20])  # a cut line
    (out / 'summary.json').unlink()
    assert run(*pope, '-o', out) == 0
    assert rows(out)[:10] == complete[:10]
    assert [r['number'] for r in by_number(rows(out))] == list(range(24))
    assert summary(out)['scores'] == scores


def test_parts_share_a_folder(tmp_path, pope, loads, capsys):
    assert run(*pope, '-o', tmp_path / 'one') == 0
    out = tmp_path / 'out'
    assert run(*pope, '-o', out, '--part', '1/2') == 0
    assert '12 questions have no answer yet' in capsys.readouterr().err
    assert not (out / 'summary.json').exists()
    assert run('--score', out) == 1
    error = capsys.readouterr().err
    assert 'The command that made the folder completes it' in error
    assert 'results: ' not in error
    assert run(*pope, '-o', out, '--part', '2/2') == 0
    assert len(rows(out, 'answers-1-of-2.jsonl')) == 12
    assert summary(out)['answers'] == 24
    assert summary(out)['scores'] == summary(tmp_path / 'one')['scores']
    # other numbers of parts continue with what is missing
    (out / 'answers-2-of-2.jsonl').unlink()
    assert run(*pope, '-o', out) == 0
    assert len(rows(out)) == 12
    assert summary(out)['scores'] == summary(tmp_path / 'one')['scores']


def test_stored_answers_are_scored_again(tmp_path, pope, loads, capsys):
    out = tmp_path / 'out'
    assert run(*pope, '-o', out) == 0
    stored = summary(out)
    assert run('--score', out) == 0
    assert summary(out) == stored
    (out / 'summary.json').unlink()
    assert run('--score', out) == 0
    del stored['image_folder']  # only a run knows it
    assert summary(out) == stored
    assert run('--score', out, '--option', 'parser=first-word') == 0
    assert summary(out)['scoring'] == {'parser': 'first-word'}
    assert len(loads) == 1
    capsys.readouterr()
    for option in ('parser=other', 'match=exact', 'parser'):
        assert run('--score', out, '--option', option) == 2
        assert f'--option {option}: ' in capsys.readouterr().err


def test_choices_are_ranked_or_found_in_answers(
    tmp_path, aokvqa, loads, model
):
    out = tmp_path / 'out'
    assert run(*aokvqa, '-o', out) == 0
    for row in rows(out):
        assert len(row['log_likelihoods']) == 4
        assert max(row['log_likelihoods']) < 0
    assert 'generation' not in summary(out)['settings']
    generated = tmp_path / 'generated'
    options = ('--method', 'generate', '--max-new-tokens', 4)
    assert run(*aokvqa, '-o', generated, *options) == 0
    assert all('answer' in row for row in rows(generated))
    settings = summary(generated)['settings']['generation']
    assert settings['max_new_tokens'] == 4
    assert settings['do_sample'] is False


def test_an_image_that_cannot_be_read_is_an_error_of_its_question(
    nano_set, tmp_path, pope, aokvqa, loads, capsys
):
    (nano_set / 'images' / '001.png').write_bytes(b'no image')
    assert run(*pope, '-o', tmp_path / 'a') == 1
    assert 'failed: 001.png' in capsys.readouterr().err
    found = summary(tmp_path / 'a')
    assert found['answers'] == 22
    assert [error['id'] for error in found['errors']] == [2, 3]
    assert run(*aokvqa, '-o', tmp_path / 'b') == 1
    assert summary(tmp_path / 'b')['answers'] == 5


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--part', '3/2'], 'expected 1/2 to 2/2'),
        (['--part', '0/2'], 'expected 1/2 to 2/2'),
        (['--part', 'x'], 'x is no part such as 2/4'),
        (['--part', '1/2'], '--part needs -o'),
        (['--parser', 'other'], 'invalid choice'),
        (['--max-new-tokens', '0'], 'max_new_tokens'),
    ],
)
def test_wrong_options_are_refused(pope, loads, capsys, options, message):
    assert run(*pope[:5], *options) == 2
    assert message in capsys.readouterr().err
    assert not loads


def test_other_settings_are_refused(tmp_path, pope, loads, capsys):
    out = tmp_path / 'out'
    assert run(*pope, '-o', out, '--limit', 2) == 0
    assert run(*pope, '-o', out, '--limit', 4) == 1
    error = capsys.readouterr().err
    assert 'limit 2 instead of 4' in error
    assert (
        run(*pope, '-o', out, '--limit', 4, '--part', '1/2', '--overwrite')
        == 2
    )
    assert run(*pope, '-o', out, '--limit', 4, '--overwrite') == 0
    assert len(rows(out)) == 4


def test_other_questions_of_the_same_number_are_refused(
    nano_set, tmp_path, pope, loads, capsys
):
    out = tmp_path / 'out'
    one, two = (nano_set / 'images' / f'00{i}.png' for i in (1, 2))
    away = one.rename(nano_set / 'away.png')
    assert run(*pope, '-o', out, '--limit', 2) == 0
    assert run(*pope, '-o', out, '--limit', 2) == 0
    assert run(*pope, '-o', tmp_path / 'b', '--limit', 4) == 0
    # another image is missing: the numbers are those of other questions
    away.rename(one)
    two.rename(away)
    assert run(*pope, '-o', tmp_path / 'b', '--limit', 4) == 1
    assert 'results of other settings (asked "' in capsys.readouterr().err
    assert len(rows(tmp_path / 'b')) == 4


def test_other_texts_of_vqav2_are_refused(nano_set, tmp_path, loads, capsys):
    texts = nano_set / 'q.json'
    question = dict(question_id=1, image_id='000', question='How many?')
    texts.write_text(json.dumps(dict(questions=[question])))
    answers = nano_set / 'a.json'
    annotation = dict(question_id='1', image_id='000', answers=['1'] * 10)
    answers.write_text(json.dumps(dict(annotations=[annotation])))
    options = [
        *('vqav2', '--questions', answers, '--question-texts', texts),
        *('--images', nano_set / 'images', '-o', tmp_path / 'out'),
        *('--max-new-tokens', 2, '--normalise', 'official'),
    ]
    assert run(*options) == 0
    out = capsys.readouterr().out
    assert 'vqav2: 1 answers about 1 images, match exact, norm' in out
    assert (
        run('--score', tmp_path / 'out', '--option', 'normalise=always') == 0
    )
    assert summary(tmp_path / 'out')['scoring'] == dict(
        match='exact', normalise='always'
    )
    texts.write_text(texts.read_text().replace('many', 'few'))
    assert run(*options) == 1
    assert 'results of other settings (asked "' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (None, 'has no settings.json'),
        ('[]', 'is not the settings of an evaluation'),
        ('{"protocol": "mme"}', 'has results of mme'),
    ],
)
def test_folders_without_answers_are_refused(
    tmp_path, capsys, content, message
):
    if content is not None:
        (tmp_path / 'settings.json').write_text(content)
    assert run('--score', tmp_path) == 1
    assert message in capsys.readouterr().err


def test_a_protocol_or_a_folder_is_needed(capsys):
    assert run() == 2
    assert 'give either a PROTOCOL' in capsys.readouterr().err


def test_a_killed_process_continues(tmp_path, pope):
    out = tmp_path / 'out'
    command = [
        *(sys.executable, '-m', 'minigpt4_cli.main', 'eval'),
        *map(str, pope),
        *('-o', str(out), '--model', 'minigpt-4_nano_caption'),
        *('--device', 'cpu', '--slots', '1', '--min-new-tokens', '12', '-q'),
    ]
    env = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path))
    process = subprocess.Popen(command, env=env)
    file = out / 'answers.jsonl'
    deadline = time.monotonic() + 500
    while not (file.exists() and file.read_bytes().count(b'\n') >= 3):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = file.read_bytes().count(b'\n')
    assert subprocess.run(command, env=env, timeout=500).returncode == 0
    assert [r['number'] for r in by_number(rows(out))] == list(range(24))
    assert 3 <= done
    # with one slot each answer has a batch of its own
    again = tmp_path / 'again'
    command[command.index(str(out))] = str(again)
    assert subprocess.run(command, env=env, timeout=500).returncode == 0
    assert by_number(rows(again)) == by_number(rows(out))
