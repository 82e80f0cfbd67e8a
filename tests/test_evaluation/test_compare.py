# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Comparisons of two results, counted by hand."""

import json

import pytest

from minigpt4.evaluation.compare import compare_results
from minigpt4.evaluation.compared_folder import read_results

POPE = [
    # id, image, question, label, answer
    (1, 'a', 'Is there a dog?', 'yes', 'yes'),
    (2, 'a', 'Is there a cat?', 'no', 'yes'),
    (3, 'b', 'Is there a cup?', 'yes', 'no'),
    (4, 'b', 'Is there a car?', 'no', 'no'),
    (5, 'c', 'Is there a bus?', 'no', 'no'),
]


def answered(*answers):
    return [(*row[:4], text) for row, text in zip(POPE, answers, strict=True)]


def compare(first, second, **options):
    return compare_results(
        read_results(first), read_results(second), **options
    )


def test_answers_are_counted_by_hand(pope_folder):
    first = pope_folder('1', POPE)  # right: 1, 4, 5
    second = pope_folder(
        '2', answered('yes', 'no', 'no', 'yes', 'no'), seed=3
    )  # right: 1, 2, 5
    found = compare(first, second)
    assert found.summary['settings'] == [
        dict(name='seed', first=None, second=3)
    ]
    good = found.summary['good']
    assert (good['both'], good['neither']) == (2, 1)
    assert (good['only_first'], good['only_second']) == (1, 1)
    assert good['p'] == 1
    assert [pair.first.key for pair in found.pairs] == ['2', '4']
    scores = found.summary['scores']
    assert scores['accuracy']['first'] == scores['accuracy']['second'] == 0.6
    # image a gains one right answer, b loses one: 4 of 8 ways to swap give
    # a difference of 0, the others of 0.4
    assert scores['accuracy']['difference'] == 0
    assert scores['accuracy']['p'] == 1
    # yes: questions 1, 2 and 1, 4; right ones of them: 1 and 1
    assert scores['precision']['first'] == 0.5
    assert scores['precision']['second'] == 0.5
    assert scores['f1']['second'] == 0.5


def test_scores_are_those_of_the_summaries(pope_folder, match_folder):
    pairs = (
        (pope_folder('1', POPE), pope_folder('2', answered(*['yes'] * 5))),
        (
            match_folder('3', [('a', 1, 2), ('b', 2, 1), ('c', 3, 3)]),
            match_folder('4', [('a', 1, 2), ('b', 1, 1.5), ('c', 3, 4)]),
        ),
    )
    for folders in pairs:
        found = compare(*folders).summary['scores']
        for side, folder in zip(('first', 'second'), folders, strict=True):
            stored = json.loads((folder / 'summary.json').read_text())
            values = {k: v['value'] for k, v in stored['scores'].items()}
            assert {k: v[side] for k, v in found.items()} == values


def test_only_samples_of_both_are_compared(pope_folder):
    first = pope_folder('1', POPE[:3])
    second = pope_folder('2', POPE[1:])
    summary = compare(first, second).summary
    assert summary['samples'] == 2 and summary['images'] == 2
    assert summary['first']['only_here'] == 1
    assert summary['second']['only_here'] == 2
    assert summary['scores']['accuracy']['first'] == 0
    assert 'count' in [row['name'] for row in summary['settings']]


def test_scoring_options_are_settings(pope_folder):
    answers = [(*row[:4], 'There is one.') for row in POPE]
    first = pope_folder('1', answers)
    second = pope_folder('2', answers, parser='first-word')
    found = compare(first, second).summary
    assert found['settings'] == [
        dict(name='scoring.parser', first='official', second='first-word')
    ]
    assert found['scores']['unknown']['difference'] == 1


def test_prompts_may_differ_and_questions_may_not(pope_folder):
    first = pope_folder('1', POPE)
    second = pope_folder('2', POPE, prompt='{question} Answer yes or no.')
    assert compare(first, second).pairs == []
    other = [(i, m, q.replace('dog', 'cow'), t, a) for i, m, q, t, a in POPE]
    third = pope_folder('3', other, prompt='{question} Answer yes or no.')
    with pytest.raises(ValueError, match='1 is not the same in .* a dog'):
        compare(first, third)


def test_other_truths_are_refused(pope_folder, chair_folder):
    first = pope_folder('1', POPE)
    row = (1, 'a', 'Is there a dog?', 'no', 'yes')
    with pytest.raises(ValueError, match='1 is not the same in'):
        compare(first, pope_folder('2', [row, *POPE[1:]]))
    captions = [(1, 'A dog.')]
    third = chair_folder('3', captions, {'1': ['dog']})
    with pytest.raises(ValueError, match='1 is not the same in'):
        compare(third, chair_folder('4', captions, {'1': ['cat']}))


def test_captions_whose_invented_objects_differ(chair_folder):
    truth = {'1': ['dog'], '2': ['cat'], '3': ['cup'], '4': []}
    first = chair_folder(
        '1',
        [(1, 'A dog and a cat.'), (2, 'A cat.'), (3, 'A cat.'), (4, 'Cars.')],
        truth,
    )
    second = chair_folder(
        '2',
        [
            (1, 'A dog.'),  # cat is not invented any more: 1
            (2, 'A cat.'),
            (3, 'A cat, a dog, and a dog.'),  # two dogs: 2
            (4, 'A car on a road.'),
        ],
        truth,
    )
    found = compare(first, second)
    assert [(p.first.key, p.distance) for p in found.pairs] == [
        ('3', 2),
        ('1', 1),
    ]
    good = found.summary['good']
    assert (good['both'], good['only_second'], good['neither']) == (1, 1, 2)
    scores = found.summary['scores']
    # invented of mentions: 3 of 5, and 4 of 6
    assert scores['chair_i']['difference'] == pytest.approx(
        4 / 6 - 3 / 5, abs=1e-6
    )
    assert 'finished' not in scores


def test_only_scores_of_both_are_compared(chair_folder):
    captions, truth = [(1, 'A dog.')], {'1': ['dog']}
    stated = chair_folder('1', captions, truth, finished=True)
    not_stated = chair_folder('2', captions, truth)
    again = chair_folder('3', captions, truth, finished=False)
    for first, second in ((stated, not_stated), (not_stated, stated)):
        found = compare(first, second)
        assert 'finished' not in found.summary['scores']
        assert 'finished' not in [name for _, name, _ in found.labels]
    finished = compare(stated, again).summary['scores']['finished']
    assert finished['difference'] == -1


def test_several_captions_of_an_image_are_compared_in_their_order(
    chair_folder,
):
    truth = {'1': ['dog']}
    first = chair_folder('1', [(1, 'A dog.'), (1, 'A cat.')], truth)
    second = chair_folder('2', [(1, 'A dog.'), (1, 'A dog.')], truth)
    found = compare(first, second)
    assert found.summary['samples'] == 2 and found.summary['images'] == 1
    assert [pair.first.key for pair in found.pairs] == ['1, number 2']


def test_captions_whose_preference_differs(match_folder):
    first = match_folder(
        '1', [('a', 1, 2), ('b', 2, 1), ('c', 1, 1), ('d', 1, 9)]
    )
    second = match_folder(
        '2', [('a', 2, 1.5), ('b', 1, 3), ('c', 1, 1), ('d', 1, 2)]
    )
    found = compare(first, second)
    # gaps: a from 1 to -0.5, b from -1 to 2; d has another gap only
    assert [(p.first.image, p.distance) for p in found.pairs] == [
        ('b', 3),
        ('a', 1.5),
    ]
    good = found.summary['good']
    assert (good['both'], good['neither']) == (1, 1)


def test_results_that_cannot_be_compared(pope_folder, match_folder):
    first = pope_folder('1', POPE)
    with pytest.raises(ValueError, match='are the same folder'):
        compare(first, first.parent / '.' / '1')
    other = match_folder('2', [('a', 1, 2)])
    with pytest.raises(ValueError, match='results of pope and .* of match'):
        compare(first, other)
    third = pope_folder('3', [(9, *POPE[0][1:])])
    with pytest.raises(ValueError, match='no sample in common'):
        compare(first, third)
