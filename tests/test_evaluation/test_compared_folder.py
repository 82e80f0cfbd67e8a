# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Result folders that are missing, incomplete or damaged."""

import json

import pytest

from minigpt4.evaluation.compared_folder import read_results

ROWS = [(i, 'a', f'Is there a dog {i}?', 'yes', 'yes') for i in range(3)]


def change(path, function):
    content = json.loads(path.read_text())
    function(content)
    path.write_text(json.dumps(content))


def lines(folder):
    return (folder / 'answers.jsonl').read_text().splitlines()


def write(folder, rows):
    (folder / 'answers.jsonl').write_text('\n'.join(rows) + '\n')


def test_a_folder_that_does_not_exist(tmp_path):
    with pytest.raises(FileNotFoundError, match='does not exist; expected'):
        read_results(tmp_path / 'none')
    with pytest.raises(ValueError, match=r'has no settings\.json'):
        read_results(tmp_path)


def test_settings_are_flat(pope_folder):
    generation = dict(num_beams=5)
    found = read_results(pope_folder('1', ROWS, generation=generation))
    assert found.settings['generation.num_beams'] == 5
    assert found.settings['scoring.parser'] == 'official'


def test_a_run_that_is_not_complete(pope_folder):
    folder = pope_folder('1', ROWS)
    summary = (folder / 'summary.json').read_text()
    (folder / 'summary.json').unlink()
    with pytest.raises(ValueError, match=r'no summary\.json, so its run'):
        read_results(folder)
    (folder / 'summary.json').write_text(summary)
    write(folder, lines(folder)[:2])
    with pytest.raises(ValueError, match=r'2 answers, and .* counts 3'):
        read_results(folder)


def test_a_summary_of_other_settings(pope_folder):
    folder = pope_folder('1', ROWS)
    change(folder / 'settings.json', lambda x: x.update(model='other'))
    with pytest.raises(ValueError, match='is of other settings'):
        read_results(folder)
    (folder / 'summary.json').write_text('[')
    with pytest.raises(ValueError, match='not JSON .*expected the summary'):
        read_results(folder)


@pytest.mark.parametrize(
    ('line', 'message'),
    [
        ('{"number": 1', 'line 2 is not JSON'),
        ('[]', 'line 2 is no result of the protocol'),
        ('{}', 'line 2 is no result of the protocol'),
        ('{"number": 1}', "line 2 is no result .*'answer' is missing"),
        (
            '{"number": 1, "truth": 7, "answer": "yes", "prompt": ""}',
            'line 2 is no result',
        ),
    ],
)
def test_a_damaged_row_is_named(pope_folder, line, message):
    folder = pope_folder('1', ROWS)
    rows = lines(folder)
    write(folder, [rows[0], line, rows[2]])
    with pytest.raises(ValueError, match=message) as error:
        read_results(folder)
    assert 'answers.jsonl' in str(error.value)


@pytest.mark.parametrize(
    ('loss', 'message'),
    [('NaN', 'NaN is no number of JSON'), ('1e999', 'the number 1e999 is')],
)
def test_losses_that_are_no_numbers(match_folder, loss, message):
    folder = match_folder('1', [('a', 1, 2)])
    file = folder / 'losses.jsonl'
    file.write_text(file.read_text().replace('"loss": 1', f'"loss": {loss}'))
    with pytest.raises(ValueError, match=message):
        read_results(folder)


def test_parts_are_joined_and_errors_counted(pope_folder):
    folder = pope_folder('1', ROWS)
    rows = lines(folder)
    (folder / 'answers.jsonl').unlink()
    (folder / 'answers-1-of-2.jsonl').write_text(f'{rows[2]}\n{rows[0]}\n')
    failed = '{"number": 1, "error": "e"}'
    (folder / 'answers-2-of-2.jsonl').write_text(f'{failed}\n{rows[0]}\n')
    change(folder / 'summary.json', lambda x: x.update(answers=2))
    found = read_results(folder)
    assert list(found.samples) == ['0', '2'] and found.failed == 1


def test_of_two_rows_of_one_number_the_first_counts(pope_folder):
    folder = pope_folder('1', ROWS)
    with open(folder / 'answers.jsonl', 'a') as file:
        file.write(lines(folder)[1].replace('"answer": "yes"', '"answer": ""'))
    found = read_results(folder)
    assert [sample.text for sample in found.samples.values()] == ['yes'] * 3


def test_captions_need_their_truth(chair_folder):
    folder = chair_folder(
        '1', [(1, 'A dog.'), (2, 'A cat.')], {'1': ['dog'], '3': ['cat']}
    )
    assert json.loads((folder / 'truth.json').read_text()) == {'1': ['dog']}
    found = read_results(folder)
    assert len(found.samples) == 1 and found.without_truth == 1
    (folder / 'truth.json').unlink()
    with pytest.raises(ValueError, match=r'no truth\.json'):
        read_results(folder)


def test_other_protocols_are_named(pope_folder):
    folder = pope_folder('1', ROWS)
    change(folder / 'settings.json', lambda x: x.update(protocol='other'))
    with pytest.raises(ValueError, match='results of other cannot be .*chair'):
        read_results(folder)
