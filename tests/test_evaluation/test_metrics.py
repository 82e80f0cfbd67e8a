# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The question protocols in tools/test.py give the scores of the verb."""

import json
from pathlib import Path

import pytest
from mmengine import Config

import minigpt4
from minigpt4.engine.config import build_runner
from minigpt4.evaluation.metrics import QuestionMetric
from minigpt4.evaluation.pope import POPE
from minigpt4.evaluation.question_dataset import QuestionDataset
from minigpt4_cli import main as cli

CONFIG = Path(__file__).parents[2] / 'configs/minigpt4/test_pope.py'
NAME = 'minigpt-4_nano_caption'


def sample(answer, label, image='a'):
    return dict(
        image=image,
        truth=dict(label=label),
        choices=('yes', 'no'),
        pred_caption=answer,
    )


def test_answers_are_scored():
    metric = QuestionMetric('pope')
    metric.process(None, [sample('Yes.', 'yes'), sample('Yes.', 'no')])
    assert metric.evaluate(2)['pope/accuracy'] == 0.5
    metric = QuestionMetric('pope', dict(parser='first-word'))
    metric.process(None, [sample('It is not.', 'no')])
    assert metric.evaluate(1)['pope/accuracy'] == 0


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="'popes'; expected one of pope, "):
        QuestionMetric('popes')
    with pytest.raises(ValueError, match='no scoring option match'):
        QuestionMetric('pope', dict(match='exact'))


def test_the_config_decodes_as_the_protocol():
    cfg = Config.fromfile(CONFIG)
    assert dict(cfg.model.generation) == POPE.generation


def test_a_test_run_gives_the_scores_of_the_verb(nano_set, tmp_path):
    (nano_set / 'images' / '001.png').write_bytes(b'no image')
    questions = nano_set / 'pope.json'
    questions.write_text(
        ''.join(
            json.dumps(
                dict(
                    question_id=i,
                    image=f'{i:03d}.png',
                    text='Is there a red circle?',
                    label=('yes', 'no')[i % 2],
                )
            )
            + '\n'
            for i in range(6)
        )
    )
    cfg = Config.fromfile(CONFIG)
    nano = minigpt4.get_model(NAME, device='cpu')
    size = nano.image_size
    path = Path(__file__).parents[2] / 'configs/minigpt4/stage2_nano.py'
    cfg.model = Config.fromfile(path).model
    cfg.model.generation = dict(POPE.generation)
    cfg.test_dataloader.update(num_workers=0, batch_size=4)
    cfg.test_dataloader.dataset.update(
        questions=str(questions), images=str(nano_set / 'images')
    )
    cfg.test_dataloader.dataset.pipeline[0].update(size=size)
    cfg.work_dir = str(tmp_path / 'work')
    runner = build_runner(cfg)
    runner.model.load_state_dict(nano.state_dict(), strict=False)
    found = runner.test()
    options = ('--questions', questions, '--images', nano_set / 'images')
    status = cli.main(
        [
            *('eval', 'pope', *map(str, options)),
            *('--model', NAME, '--device', 'cpu', '-o', str(tmp_path / 'out')),
        ]
    )
    assert status == 1  # the image that cannot be read
    summary = json.loads((tmp_path / 'out' / 'summary.json').read_text())
    assert summary['answers'] == 5
    for name, score in summary['scores'].items():
        assert found[f'pope/{name}'] == pytest.approx(score['value'])


def test_questions_without_an_image_are_reported(nano_set):
    questions = nano_set / 'pope.json'
    row = dict(question_id=1, image='000', text='Is it red?', label='no')
    questions.write_text(
        '\n'.join(map(json.dumps, [row, row | dict(question_id=2, image='x')]))
    )
    data = QuestionDataset(
        'pope', str(questions), str(nano_set / 'images'), pipeline=[dict]
    )
    assert len(data) == 1
    assert data[0]['turns'][0].question == 'Is it red?'
