# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""VQAv2, OK-VQA and GQA: scores computed by hand, and their time."""

import json
import time

import pytest
from PIL import Image

from minigpt4.evaluation.question_protocols import QUESTION_PROTOCOLS
from minigpt4.evaluation.questions import read_questions
from minigpt4.evaluation.vqa import GQA, VQAV2


def test_vqa_is_a_mean_over_annotators():
    truth = dict(answers=['dog'] * 3 + ['cat'] * 7)
    rows = [
        dict(image='a', answer='a dog', truth=truth),  # 0.9
        dict(image='a', answer='cat', truth=truth),  # 1
        dict(image='b', answer='It is a cat', truth=truth),  # 0 or 1
    ]
    found = VQAV2.score(rows, dict(match='exact'), 10)
    assert found['scores']['accuracy']['value'] == pytest.approx(
        1.9 / 3, abs=1e-6
    )
    found = VQAV2.score(rows, dict(match='contains'), 10)
    assert found['scores']['accuracy']['value'] == pytest.approx(
        2.9 / 3, abs=1e-6
    )


def test_gqa_compares_one_answer():
    rows = [
        dict(image=i, answer=answer, truth=dict(answer='no'))
        for i, answer in enumerate(['No.', 'yes', 'No, it is not.'])
    ]
    found = GQA.score(rows, dict(match='exact'), 10)
    assert found['scores']['accuracy']['value'] == pytest.approx(
        1 / 3, abs=1e-6
    )


def test_all_questions_of_gqa_are_read_and_scored_in_15_seconds(tmp_path):
    for i in range(398):  # the numbers of testdev_balanced
        Image.new('RGB', (8, 8)).save(tmp_path / f'n{i}.jpg')
    path = tmp_path / 'testdev_balanced_questions.json'
    path.write_text(
        json.dumps(
            {
                str(i): dict(
                    question='Is the sky in the upper part of the photo?',
                    imageId=f'n{i % 398}',
                    answer=('yes', 'no', 'blue')[i % 3],
                    semantic=[dict(operation='select', dependencies=[])] * 4,
                    fullAnswer='Yes, it is.',
                )
                for i in range(12_578)
            }
        )
    )
    protocol = QUESTION_PROTOCOLS['gqa']
    started = time.process_time()
    asked = read_questions(
        protocol, protocol.items(path, None), path, tmp_path, '{question}'
    ).asked
    rows = [
        dict(image=a.question.image, answer='yes', truth=a.question.truth)
        for a in asked
    ]
    found = protocol.score(rows, protocol.scoring, 1000)
    assert found['images'] == 398
    assert found['scores']['accuracy']['value'] == pytest.approx(
        1 / 3, abs=1e-4
    )
    assert time.process_time() - started < 15


@pytest.mark.parametrize('name', ['vqav2', 'okvqa'])
def test_the_official_rule_of_normalisation_is_an_option(name):
    protocol = QUESTION_PROTOCOLS[name]
    assert protocol.scoring == dict(match='exact', normalise='always')
    rows = [
        dict(image='a', answer='Yes.', truth=dict(answers=['yes'] * 10)),
        dict(
            image='b',
            answer='Yes.',
            truth=dict(answers=['yes'] * 8 + ['no'] * 2),
        ),
    ]
    values = {
        normalise: protocol.score(
            rows, dict(match='exact', normalise=normalise), 10
        )['scores']['accuracy']['value']
        for normalise in ('always', 'official')
    }
    # the first one is wrong by the official rule
    assert values == dict(always=1, official=0.5)
    # folders of before the option
    assert (
        protocol.score(rows, dict(match='exact'), 10)['scores']['accuracy'][
            'value'
        ]
        == 1
    )
