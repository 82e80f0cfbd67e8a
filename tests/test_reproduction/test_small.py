# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The tests of the small model in a reproduction."""

import argparse
import json
from pathlib import Path

import pytest

from minigpt4.evaluation.chair_run import chair_summary
from minigpt4.evaluation.failures_run import failures_summary
from minigpt4.evaluation.match_run import match_summary
from minigpt4.reproduction.setups import Target
from minigpt4.reproduction.small import small
from minigpt4_cli import eval as eval_

SETUP = small(Path('photos'))
TESTS = {test.name: test for test in SETUP.tests}
GOOD = 'A brown dog runs over the wet grass. The sky above it is grey.'


def write(folder, summary):
    (folder / 'summary.json').write_text(json.dumps(summary))


@pytest.mark.parametrize('name', TESTS)
def test_commands_are_those_of_the_evaluation(name):
    target = Target('config.py', 'iter_4.pth', 'results', 0.1)
    words = TESTS[name].command(target)
    assert words[3] == 'eval'
    parser = argparse.ArgumentParser()
    eval_.add_arguments(parser)
    args = parser.parse_args(words[4:])
    assert args.protocol == name
    assert (args.model, args.pretrained) == ('config.py', 'iter_4.pth')
    assert args.out == Path('results')
    number = args.count if name == 'failures' else args.limit
    assert number == (10 if name == 'failures' else 20)


def test_scores_of_match(tmp_path):
    rows = [
        dict(image='a', tokens=4, loss=2.0, other_loss=3.0),
        dict(image='b', tokens=4, loss=3.0, other_loss=2.5),
    ]
    write(tmp_path, match_summary(rows, 0, 10))
    found = TESTS['match'].read(tmp_path)
    assert found == {'preferred': 0.5, 'caption_loss': 2.5}
    assert TESTS['match'].counts(tmp_path, tmp_path) == (2, 2)
    rows.append(dict(image='c', error='not readable'))
    write(tmp_path, match_summary(rows, 0, 10))
    assert TESTS['match'].counts(tmp_path, tmp_path) == (2, 3)


def test_scores_of_chair(tmp_path):
    rows = [dict(image_id='1', caption=GOOD, finished=True)]
    write(tmp_path, chair_summary(rows, {'1': ['cat', 'dog']}, 10))
    assert TESTS['chair'].read(tmp_path) == {
        'recall': 0.5,
        'chair_i': 0.0,
        'detailed': 0.0,
        'finished': 1.0,
        'describe_words': 14.0,
    }


@pytest.mark.parametrize('limit, total', [(1, 1), (200, 3)])
def test_photographs_that_chair_did_not_find_are_counted(
    tmp_path, limit, total
):
    truth = {'1': ['cat', 'dog'], '2': ['dog'], '3': []}
    (tmp_path / 'data' / 'photos').mkdir(parents=True)
    file = tmp_path / 'data' / 'photos' / 'objects_test.json'
    file.write_text(json.dumps(truth))
    rows = [dict(image_id='1', caption=GOOD, finished=True)]
    summary = chair_summary(rows, truth, 10)
    write(tmp_path, dict(settings=dict(limit=limit), **summary))
    assert TESTS['chair'].counts(tmp_path, tmp_path) == (1, total)


def test_scores_of_failures_and_examples(tmp_path):
    rows = [
        dict(
            number=number,
            group=group,
            image_id='1',
            image='/photos/1.jpg',
            prompt=group,
            answer=answer,
            finished=True,
        )
        for number, (group, answer) in enumerate(
            [('caption', GOOD), ('poem', 'wet wet wet wet')]
        )
    ]
    write(tmp_path, failures_summary(rows))
    error = dict(number=2, group='poem', image='2.jpg', error='not readable')
    rows.append(error)
    lines = ''.join(json.dumps(row) + '\n' for row in rows)
    (tmp_path / 'answers.jsonl').write_text(lines)
    test = TESTS['failures']
    assert test.counts(tmp_path, tmp_path) == (2, 2)
    assert test.read(tmp_path) == {
        'describe_failures': 0.0,
        'poem_failures': 1.0,
    }
    found = list(test.examples(tmp_path, tmp_path))
    assert [example.answer for example in found] == [GOOD, 'wet wet wet wet']
    assert found[0].image == Path('/photos/1.jpg')
    write(tmp_path, failures_summary(rows))
    assert test.counts(tmp_path, tmp_path) == (2, 3)


def test_each_score_has_a_column():
    read = {'preferred', 'caption_loss', 'recall', 'chair_i', 'detailed'}
    read |= {'finished', 'describe_words', 'describe_failures'}
    assert set(SETUP.columns) == read | {'poem_failures'}
