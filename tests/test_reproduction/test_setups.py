# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""What the two reproductions consist of."""

import json
from pathlib import Path

import pytest

from minigpt4.reproduction.nano import NANO
from minigpt4.reproduction.plan import Plan
from minigpt4.reproduction.setups import (
    Training,
    lengths_of,
    sizes_of,
    with_enough,
    with_needed,
)
from minigpt4.reproduction.small import small

STAGE_2 = Training('stage2', 'stage2.py', 'stage2.py', 1.0, 'stage1')


@pytest.fixture(params=['nano', 'small'])
def setup(request):
    """Each of the two reproductions."""
    return NANO if request.param == 'nano' else small(Path('photos'))


def test_claims_goals_and_curves_are_about_its_trainings(setup):
    names = {training.name for training in setup.trainings}
    for claim in setup.claims:
        assert {claim.before, claim.after} <= names
    assert {goal.training for goal in setup.goals} <= names
    for curve in setup.curves:
        assert set(curve.labels) <= names
    assert {goal.score for goal in setup.goals} <= set(setup.columns)


def test_each_training_follows_the_one_that_it_starts_from(setup):
    seen = {None}
    for training in setup.trainings:
        assert training.start in seen
        seen.add(training.name)
    assert {t.features for t in setup.trainings} <= {None, *setup.features}


def test_lengths_have_a_table_with_the_own_one():
    trainings, curve = lengths_of(STAGE_2, (50, 400), 0.05)
    assert [t.settings for t in trainings] == [
        ('max_iters=50', 'param_scheduler.0.warmup=2'),
        ('max_iters=400', 'param_scheduler.0.warmup=20'),
    ]
    assert {t.start for t in trainings} == {'stage1'}
    assert list(curve.labels.items()) == [
        ('stage2', None),
        ('stage2_50_iterations', '50'),
        ('stage2_400_iterations', '400'),
    ]


def test_sizes_have_a_table_with_the_own_one():
    trainings, curve = sizes_of(STAGE_2, (35,))
    assert trainings[0].settings == ('train_dataloader.dataset.limit=35',)
    assert list(curve.labels.values()) == ['35', 'as in its config']


def test_chosen_trainings_include_what_they_start_from():
    names = [t.name for t in with_needed(NANO.trainings, ['dpo'])]
    assert names == ['stage1', 'stage2', 'dpo']
    with pytest.raises(ValueError, match="no training 'x'; expected one of"):
        with_needed(NANO.trainings, ['x'])


def test_trainings_with_too_few_descriptions_are_omitted(tmp_path):
    setup = small(tmp_path / 'photos')
    folder = tmp_path / 'data' / 'photos'
    folder.mkdir(parents=True)
    content = dict(images=[], annotations=[{}] * 300)
    (folder / 'descriptions_train.json').write_text(json.dumps(content))
    found, omitted = with_enough(setup, tmp_path)
    assert omitted == [
        'stage2_350_descriptions is omitted: the data have 300 descriptions, '
        'expected at least 350'
    ]
    left = {training.name for training in found.trainings}
    before = {training.name for training in setup.trainings}
    assert before - left == {'stage2_350_descriptions'}
    assert Plan(found, (1,)).digest == Plan(setup, (1,)).digest
    assert with_enough(NANO, tmp_path) == (NANO, [])
