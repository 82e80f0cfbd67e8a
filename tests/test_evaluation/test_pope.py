# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""POPE: how answers are read, and scores computed by hand."""

import pytest

from minigpt4.evaluation.pope import POPE, parse_answer


@pytest.mark.parametrize(
    ('text', 'official', 'first_word'),
    [
        ('Yes, there is.', 'yes', 'yes'),
        ('No, there is none.', 'no', 'no'),
        ('There is not a dog.', 'no', 'unknown'),
        ('There is a dog. It is not red.', 'yes', 'unknown'),
        ('NO', 'yes', 'no'),  # the official rule knows "No" and "no"
        ('Nothing', 'yes', 'unknown'),
        ('', 'yes', 'unknown'),
    ],
)
def test_answers_are_read_by_rule(text, official, first_word):
    assert parse_answer(text) == official
    assert parse_answer(text, 'first-word') == first_word


def row(answer, label, image):
    return dict(image=image, answer=answer, truth=dict(label=label))


def test_scores_are_those_computed_by_hand():
    rows = [
        row('Yes', 'yes', 'a'),
        row('Yes', 'no', 'a'),
        row('No', 'yes', 'b'),
        row('Yes', 'yes', 'b'),
        row('perhaps', 'no', 'c'),
    ]
    found = POPE.score(rows, dict(parser='first-word'), 50)
    values = {k: v['value'] for k, v in found['scores'].items()}
    # decisions: yes yes no yes unknown; right: 1st and 4th
    assert found['images'] == 3
    assert values == pytest.approx(
        dict(
            accuracy=0.4,
            precision=2 / 3,
            recall=2 / 3,
            f1=2 / 3,
            yes_share=0.6,
            unknown=0.2,
        ),
        abs=1e-6,
    )


def test_the_likelier_answer_decides():
    rows = [
        dict(
            image='a',
            choices=['yes', 'no'],
            log_likelihoods=values,
            truth=dict(label='no'),
        )
        for values in ([-2.0, -1.0], [-1.0, -2.0])
    ]
    found = POPE.score(rows, dict(parser='official'), 10)
    assert found['scores']['accuracy']['value'] == 0.5


@pytest.mark.parametrize('name', ['random', 'popular', 'adversarial'])
def test_official_files(evaluation_data, name):
    from minigpt4.evaluation.pope import read_pope

    path = evaluation_data / 'pope' / f'coco_pope_{name}.json'
    records = [item.record for item in read_pope(path)]
    labels = [record['label'] for record in records]
    assert len(records) in (2910, 3000)
    rows = [
        row(label.capitalize(), label, record['image'])
        for label, record in zip(labels, records, strict=True)
    ]
    found = POPE.score(rows, dict(parser='official'), 10)
    assert found['images'] == 500
    assert found['scores']['f1']['value'] == 1
    assert found['scores']['yes_share']['value'] == pytest.approx(
        0.5, abs=0.02
    )
