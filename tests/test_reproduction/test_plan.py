# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The plan of a reproduction: what changes with a config."""

import shutil
from pathlib import Path

import pytest

from minigpt4.reproduction import plan
from minigpt4.reproduction.plan import NANO, Plan, with_needed

ROOT = Path(__file__).parents[2]


@pytest.fixture
def configs(tmp_path, monkeypatch):
    """A copy of the configs, which the plan reads."""
    folder = tmp_path / 'root' / 'configs' / 'minigpt4'
    shutil.copytree(ROOT / 'configs' / 'minigpt4', folder)
    monkeypatch.setattr(plan, 'project_root', lambda: tmp_path / 'root')
    plan.read_settings.cache_clear()
    yield folder
    plan.read_settings.cache_clear()


def folders(seeds=(1,), share=1.0):
    plan.read_settings.cache_clear()
    made = Plan(NANO, seeds, share)
    return {(run.training.name, run.seed): run.folder for run in made.runs}


def names_of_tests():
    plan.read_settings.cache_clear()
    names = {step.name for step in Plan(NANO, (1,)).steps}
    return {name for name in names if name.startswith('test_')}


def test_each_step_follows_those_that_it_needs():
    made = Plan(NANO, (1, 2))
    seen = set()
    for step in made.steps:
        assert seen.issuperset(step.needs), step.name
        seen.add(step.name)
    assert len(seen) == len(made.steps)
    assert len(made.runs) == 2 * len(NANO.trainings)
    tests = [name for name in seen if name.startswith('test_')]
    assert len(tests) == len(made.runs)


def test_stage_2_starts_from_the_last_checkpoint_of_its_own_seed():
    made = Plan(NANO, (1, 2))
    runs = {(run.training.name, run.seed): run for run in made.runs}
    steps = {step.name: step for step in made.steps}
    for seed in (1, 2):
        first, second = runs['stage1', seed], runs['stage2', seed]
        command = steps[f'train_{second.folder.name}'].command
        assert f'load_from={first.checkpoint}' in command
        assert first.checkpoint.name == 'iter_800.pth'
        assert f'randomness.seed={seed}' in command


def test_a_changed_config_changes_its_training_and_no_other(configs):
    before = folders()
    assert folders() == before
    with open(configs / 'stage2_nano_locna.py', 'a') as file:
        file.write("\noptim_wrapper['optimizer'].update(lr=1e-3)\n")
    after = folders()
    changed = {key for key in before if before[key] != after[key]}
    assert changed == {('locna', 1)}


def test_a_changed_stage_1_changes_all_that_starts_from_it(configs):
    before = folders()
    file = configs / 'stage1_nano.py'
    file.write_text(file.read_text() + '\nmax_iters = 700\n')
    after = folders()
    # the ablations read the same config
    unchanged = {key for key in before if before[key] == after[key]}
    assert unchanged == set()


def test_a_changed_stage_2_does_not_change_stage_1(configs):
    before, tests = folders(), names_of_tests()
    file = configs / 'stage2_nano.py'
    file.write_text(file.read_text() + '\nmax_iters = 500\n')
    after = folders()
    assert after['stage1', 1] == before['stage1', 1]
    assert after['stage2', 1] != before['stage2', 1]
    kept = {name for name in tests if name.startswith('test_stage1-')}
    assert kept and kept <= names_of_tests()


def test_a_changed_test_repeats_the_test_alone(configs):
    before, tests = folders(), names_of_tests()
    file = configs / '_base_' / 'nano_test.py'
    changed = file.read_text() + "\ntest_dataloader['dataset']['limit'] = 9\n"
    file.write_text(changed)
    assert folders()['stage1_c', 1] == before['stage1_c', 1]
    assert not tests & names_of_tests()


def test_seeds_and_shares_have_folders_of_their_own():
    assert len(set(folders((1, 2)).values())) == 2 * len(NANO.trainings)
    assert not set(folders().values()) & set(folders(share=0.1).values())


def test_a_share_shortens_data_and_iterations():
    made = Plan(NANO, (1,), 0.01)
    assert '120' in made.steps[0].command
    assert {run.iterations for run in made.runs} == {4, 8, 16}
    assert Plan(NANO, (1,)).digest != made.digest


def test_chosen_trainings_include_what_they_start_from():
    names = [t.name for t in with_needed(NANO.trainings, ['dpo'])]
    assert names == ['stage1', 'stage2', 'dpo']
    with pytest.raises(ValueError, match="no training 'x'; expected one of"):
        with_needed(NANO.trainings, ['x'])
