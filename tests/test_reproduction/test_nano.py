# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The test of the nano model in a reproduction."""

import json

import pytest

from minigpt4.reproduction.nano import NANO


def test_scores_have_no_name_of_the_metric_and_the_mean_of_questions(tmp_path):
    values = {'nano/recall': 0.5, 'nano/count': 0.9}
    values |= {'nano/color': 0.6, 'nano/place': 0.3}
    (tmp_path / 'scores.json').write_text(json.dumps(values))
    found = NANO.tests[0].read(tmp_path)
    assert found['recall'] == 0.5
    assert found['questions'] == pytest.approx(0.6)


def test_scores_of_questions_that_a_test_lacks_are_not_defined(tmp_path):
    values = {'nano/recall': 0.5, 'nano/color': 0.6, 'nano/place': 0.3}
    (tmp_path / 'scores.json').write_text(json.dumps(values))
    found = NANO.tests[0].read(tmp_path)
    assert found['count'] is None and found['questions'] is None
    assert found['color'] == 0.6


def test_records_are_counted(tmp_path):
    values = {'nano/recall': 0.5, 'scored_records': 9, 'skipped_records': 1}
    (tmp_path / 'scores.json').write_text(json.dumps(values))
    assert NANO.tests[0].counts(tmp_path, tmp_path) == (9, 10)
    # of a version that did not count, left by a test that was killed
    (tmp_path / 'scores.json').write_text('{"nano/recall": 0.5}')
    assert NANO.tests[0].counts(tmp_path, tmp_path) == (0, 0)


def test_examples_are_descriptions_and_poems(tmp_path):
    rows = [
        dict(id=f'7-{task}', task=task, pred_caption='seen', answer='right')
        for task in ('describe', 'count', 'poem')
    ]
    lines = ''.join(json.dumps(row) + '\n' for row in rows)
    (tmp_path / 'answers.jsonl').write_text(lines)
    found = list(NANO.tests[0].examples(tmp_path, tmp_path))
    assert [example.task for example in found] == ['describe', 'poem']
    assert found[0].image == tmp_path / 'data/nano/test/image/7.jpg'
    assert (found[0].answer, found[0].right) == ('seen', 'right')
