# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""A short run of both stages, each evaluated, on the nano model."""

import json
from pathlib import Path

import pytest
import torch

from minigpt4.nano.write_dataset import write_dataset

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / 'configs' / 'minigpt4'


@pytest.fixture(scope='module')
def trained(tmp_path_factory, run_tool):
    """Scores before and after stage 2 of a shortened run."""
    folder = tmp_path_factory.mktemp('recipe')
    write_dataset(
        folder / 'data' / 'nano', pairs=4000, descriptions=400, test_scenes=60
    )
    stage1, stage2 = (CONFIGS / f'stage{i}_nano.py' for i in (1, 2))
    first, last = (f'work_dirs/stage{i}_nano/iter_200.pth' for i in (1, 2))
    options = ('--cfg-options', 'max_iters=200')
    for tool, *arguments in (
        ('train.py', stage1, *options),
        ('test.py', stage2, first, '--out', 'before.json'),
        ('train.py', stage2, *options, f'load_from={first}'),
        ('test.py', stage2, last, '--out', 'after.json'),
    ):
        run_tool(tool, *arguments, cwd=folder)
    return folder, *(
        json.loads((folder / f'{name}.json').read_text())
        for name in ('before', 'after')
    )


def test_stage_2_improves_the_answers(trained):
    _, before, after = trained
    assert before['nano/describe_exact'] < 0.5
    assert before['nano/recall'] < 0.85
    assert after['nano/describe_failures'] < 0.1
    assert after['nano/recall'] > 0.85
    assert after['nano/chair_i'] < 0.12
    assert after['nano/describe_exact'] > before['nano/describe_exact'] + 0.3


def test_tasks_learned_from_text_only_work_with_images(trained):
    _, _, after = trained
    for task in ('poem', 'count', 'color', 'place'):
        assert after[f'nano/{task}'] > 0.4, task


def test_checkpoints_contain_the_trained_weights_only(trained):
    file = trained[0] / 'work_dirs/stage1_nano/iter_200.pth'
    assert file.stat().st_size < 1_000_000
    state = torch.load(file, weights_only=True)['state_dict']
    assert set(state) == {
        'head.layers.0.weight',
        'head.layers.0.bias',
        'llm_fingerprint',
    }


def test_sample_captions_are_drawn(trained):
    images = list((trained[0] / 'work_dirs/stage1_nano').rglob('*.png'))
    assert len(images) == 4
