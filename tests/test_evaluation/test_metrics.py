# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The protocols in tools/test.py give the scores of the verb."""

import json
from pathlib import Path

import pytest
from mmengine import Config

import minigpt4
from minigpt4.engine.config import build_runner
from minigpt4.engine.hooks import ScoredRecordsHook
from minigpt4.evaluation.metrics import CaptionMetric, QuestionMetric
from minigpt4.evaluation.pope import POPE
from minigpt4.evaluation.question_dataset import QuestionDataset
from minigpt4_cli import main as cli

CONFIGS = Path(__file__).parents[2] / 'configs/minigpt4'
CONFIG = CONFIGS / 'test_pope.py'
NAME = 'minigpt-4_nano_caption'


def sample(answer, label, image='a'):
    return dict(
        image=image,
        truth=dict(label=label),
        choices=('yes', 'no'),
        pred_caption=answer,
    )


def use_nano(cfg, folder, **options):
    """Put the nano model into a config of Vicuna."""
    cfg.model = Config.fromfile(CONFIGS / 'stage2_nano.py').model
    cfg.model.update(options)
    cfg.test_dataloader.update(num_workers=0, batch_size=4)
    cfg.test_dataloader.dataset.pipeline[0].update(size=64)
    cfg.work_dir = str(folder / 'work')


def run_test(cfg):
    """What tools/test.py finds with the nano weights."""
    runner = build_runner(cfg)
    runner.register_hook(ScoredRecordsHook())
    weights = minigpt4.get_model(NAME, device='cpu').state_dict()
    runner.model.load_state_dict(weights, strict=False)
    return runner.test()


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
    use_nano(cfg, tmp_path, generation=dict(POPE.generation))
    cfg.test_dataloader.dataset.update(
        questions=str(questions), images=str(nano_set / 'images')
    )
    found = run_test(cfg)
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
    assert (found['scored_records'], found['skipped_records']) == (5, 1)
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
    assert len(data) == data.num_omitted == 1
    assert data[0]['turns'][0].question == 'Is it red?'


def test_captions_are_scored(tmp_path):
    truth = tmp_path / 'truth.json'
    truth.write_text('{"1": ["dog"], "2": ["cat"]}')
    captions = {1: 'A dog and a cat.', '2': 'A cat.', 9: 'A bus.'}
    samples = [
        dict(image_id=id_, pred_caption=text, finished=id_ != 1)
        for id_, text in captions.items()
    ]
    metric = CaptionMetric('chair', str(truth))
    metric.process(None, samples)
    found = metric.evaluate(3)
    # one of three mentions, in one of two captions; 9 has no truth
    assert found['chair/chair_i'] == pytest.approx(1 / 3, abs=1e-6)
    assert found['chair/chair_s'] == found['chair/finished'] == 0.5
    metric = CaptionMetric('chair', str(truth))
    with pytest.raises(ValueError, match='none of the 0 captions'):
        metric.compute_metrics([])


def test_unknown_protocols_of_captions_are_refused(tmp_path):
    with pytest.raises(ValueError, match="'pope'; expected chair or captions"):
        CaptionMetric('pope', str(tmp_path))
    with pytest.raises(FileNotFoundError):
        CaptionMetric('chair', str(tmp_path / 'none.json'))


@pytest.mark.parametrize('protocol', ['chair', 'captions'])
def test_a_test_run_scores_captions_as_the_verb(nano_set, tmp_path, protocol):
    (nano_set / 'images' / '001.png').write_bytes(b'no image')
    annotations, option = nano_set / 'captions.json', '--annotations'
    if protocol == 'chair':
        annotations, option = nano_set / 'truth.json', '--truth'
        # the nano model names shapes; the colour orange is a class of COCO
        annotations.write_text(
            json.dumps(
                {f'{i:03d}': ['dog'] + ['orange'] * (i < 3) for i in range(6)}
            )
        )
    cfg = Config.fromfile(CONFIGS / 'test_chair.py')
    use_nano(cfg, tmp_path)
    cfg.test_dataloader.dataset.update(
        protocol=protocol,
        annotations=str(annotations),
        images=str(nano_set / 'images'),
        limit=6,
    )
    cfg.test_evaluator.update(protocol=protocol, annotations=str(annotations))
    found = run_test(cfg)
    words = (
        *('eval', protocol, '--images', nano_set / 'images', '--limit', 6),
        *(option, annotations, '--model', NAME, '--device', 'cpu'),
        *('-o', tmp_path / 'out', '-q'),
    )
    # the image that cannot be read
    assert cli.main([*map(str, words)]) == 1
    summary = json.loads((tmp_path / 'out' / 'summary.json').read_text())
    assert summary['captions'] == 5
    counts = found.pop('scored_records'), found.pop('skipped_records')
    assert counts == (5, 1)
    scores = {
        f'{protocol}/{name}': score['value']
        for name, score in summary['scores'].items()
        if score['value'] is not None
    }
    assert found == pytest.approx(scores)
    if protocol == 'chair':
        assert 0 < scores['chair/recall'] < 1  # of oranges and dogs
    if protocol == 'captions':
        assert scores['captions/bleu_4'] > 0.7
