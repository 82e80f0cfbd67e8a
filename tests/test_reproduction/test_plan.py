# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The plan of a reproduction: what changes with a config."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from minigpt4.reproduction import commands, plan
from minigpt4.reproduction.commands import copied_config
from minigpt4.reproduction.nano import NANO
from minigpt4.reproduction.plan import Plan
from minigpt4.reproduction.setups import with_needed
from minigpt4.reproduction.small import small

ROOT = Path(__file__).parents[2]


@pytest.fixture
def configs(tmp_path, monkeypatch):
    """A copy of the configs, which the plan reads."""
    folder = tmp_path / 'root' / 'configs' / 'minigpt4'
    shutil.copytree(ROOT / 'configs' / 'minigpt4', folder)
    monkeypatch.setattr(commands, 'project_root', lambda: tmp_path / 'root')
    plan.read_settings.cache_clear()
    yield folder
    plan.read_settings.cache_clear()


@pytest.fixture
def photos(tmp_path):
    """A folder with one photograph and its caption."""
    folder = tmp_path / 'photos'
    folder.mkdir()
    (folder / 'dog.jpg').write_bytes(b'pixels')
    (folder / 'dog.txt').write_text('a dog')
    return folder


@pytest.fixture(params=['nano', 'small'])
def setup(request, photos):
    """Each of the two reproductions."""
    return NANO if request.param == 'nano' else small(photos)


def make(setup, seeds=(1,), share=1.0):
    plan.read_settings.cache_clear()
    return Plan(setup, seeds, share)


def folders(setup=NANO, seeds=(1,), share=1.0):
    made = make(setup, seeds, share)
    return {(run.training.name, run.seed): run.folder for run in made.runs}


def names_of_steps(kind, setup=NANO):
    names = {step.name for step in make(setup).steps}
    return {name for name in names if name.startswith(kind)}


def change(config, lines):
    config.write_text(f'{config.read_text()}\n{lines}\n')


def test_each_step_follows_those_that_it_needs(setup):
    made = Plan(setup, (1, 2))
    seen = set()
    for step in made.steps:
        assert seen.issuperset(step.needs), step.name
        seen.add(step.name)
    assert len(seen) == len(made.steps)
    assert len(made.runs) == 2 * len(setup.trainings)
    tests = [name for name in seen if name.startswith('test_')]
    assert len(tests) == len(made.runs) * len(setup.tests)


def test_each_training_reads_features_that_it_waits_for(setup):
    made = Plan(setup, (1,))
    steps = {step.name: step for step in made.steps}
    for run in made.runs:
        step = steps[f'train_{run.folder.name}']
        cached = [name for name in step.needs if name.startswith('features_')]
        if run.training.features is None:
            assert '--features' not in step.command and not cached
            continue
        folder = step.command[step.command.index('--features') + 1]
        (last,) = cached
        assert folder in steps[last].command
    # two steps do not write the same folder at the same time
    caches = [s for s in made.steps if s.name.startswith('features_')]
    for index, step in enumerate(caches):
        before = [s.name for s in caches[:index] if s.outputs == step.outputs]
        assert not before or before[-1] in step.needs


def test_trainings_and_tests_wait_for_what_they_read(setup):
    made = Plan(setup, (1,))
    steps = {step.name: step for step in made.steps}
    data = {'data', 'weights'} & steps.keys()
    for run in made.runs:
        tests = [run.test_step(test.name) for test in setup.tests]
        train = f'train_{run.folder.name}'
        assert all(steps[name].begins_after == train for name in tests)
        for name in (train, *tests):
            needs = set(steps[name].needs)
            assert data <= needs
            parts = {need for need in needs if need.startswith('part_')}
            assert len(parts) == (run.training.part is not None)


def test_each_step_records_what_it_makes(setup):
    assert all(step.outputs for step in Plan(setup, (1,)).steps)


def test_the_frozen_parts_of_photographs_are_those_of_the_cache(
    photos, tmp_path, monkeypatch
):
    monkeypatch.setenv('MINIGPT4_CACHE', str(tmp_path))
    (weights,) = [
        step
        for step in Plan(small(photos), (1,)).steps
        if step.name == 'weights'
    ]
    assert {Path(file).parent for file in weights.outputs} == {tmp_path}
    names = {Path(file).name for file in weights.outputs}
    assert 'SmolLM2-135M-Instruct.Q4_1.gguf' in names and len(names) == 2


def test_scores_of_a_part_of_the_records_are_refused(tmp_path):
    made = Plan(NANO, (1,))
    run = made.runs[0]
    (step,) = [s for s in made.steps if s.name == run.test_step('scenes')]
    assert step.check(tmp_path) == ''  # it has failed before the scores
    results = tmp_path / run.results['scenes']
    results.mkdir(parents=True)
    for skipped in (0, 1200):
        scores = dict(scored_records=1250, skipped_records=skipped)
        (results / 'scores.json').write_text(json.dumps(scores))
        found = step.check(tmp_path)
        if not skipped:
            assert found == ''
    assert found.startswith('1,250 of 2,450 records were scored, expected all')
    assert 'the images that the log names' in found
    for damage in ('x', '[]'):
        (results / 'scores.json').write_text(damage)
        found = step.check(tmp_path)
        assert found.startswith(f'{run.results["scenes"]} cannot be read (')


def test_stage_2_starts_from_the_last_checkpoint_of_its_own_seed(setup):
    made = Plan(setup, (1, 2))
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
    config = configs / 'stage2_nano_locna.py'
    change(config, "optim_wrapper['optimizer'].update(lr=1e-3)")
    after = folders()
    changed = {key for key in before if before[key] != after[key]}
    assert changed == {('locna', 1)}


def test_a_set_in_a_config_has_one_digest(configs):
    """Its order differs in each process, as here that of insertion."""
    config = configs / 'stage2_nano_locna.py'
    text = config.read_text()
    found = set()
    for order in ('', 'reversed'):
        config.write_text(f'{text}\nextra = set({order}([0, 8, 16, 24]))\n')
        found.add(folders()['locna', 1])
    assert len(found) == 1


def test_a_changed_stage_1_changes_all_that_starts_from_it(configs):
    before = folders()
    change(configs / 'stage1_nano.py', 'max_iters = 700')
    after = folders()
    # the ablations read the same config
    unchanged = {key for key in before if before[key] == after[key]}
    assert unchanged == set()


def test_a_changed_stage_2_does_not_change_stage_1(configs):
    before, tests = folders(), names_of_steps('test_')
    change(configs / 'stage2_nano.py', 'max_iters = 500')
    after = folders()
    assert after['stage1', 1] == before['stage1', 1]
    assert after['stage2', 1] != before['stage2', 1]
    kept = {name for name in tests if name.startswith('test_stage1-')}
    assert kept and kept <= names_of_steps('test_')


def test_a_changed_test_repeats_the_test_alone(configs):
    before, tests = folders(), names_of_steps('test_')
    config = configs / '_base_' / 'nano_test.py'
    change(config, "test_dataloader['dataset']['limit'] = 9")
    assert folders() == before
    assert not tests & names_of_steps('test_')


def test_a_changed_small_config_changes_its_variant_alone(configs, photos):
    setup = small(photos)
    before = folders(setup)
    features = names_of_steps('features_', setup)
    for stage in ('stage1', 'stage2'):
        config = configs / f'{stage}_small_ablation_b.py'
        change(config, "model['head'].update(num_layers=4)")
    after = folders(setup)
    changed = {name for name, _ in before if before[name, 1] != after[name, 1]}
    assert changed == {'stage1_b', 'stage2_b'}
    assert names_of_steps('features_', setup) == features


def test_a_changed_vision_module_caches_its_features_again(configs, photos):
    setup = small(photos)
    before = names_of_steps('features_', setup)
    change(configs / '_base_' / 'small.py', "model['neck'].update(grid=3)")
    after = names_of_steps('features_', setup)
    assert len(before) == len(after) == 2
    assert not before & after


def test_a_changed_head_does_not_cache_features_again(configs, photos):
    setup = small(photos)
    before = names_of_steps('features_', setup)
    head = "model['head'].update(num_prefix_tokens=4)"
    change(configs / '_base_' / 'small.py', head)
    assert names_of_steps('features_', setup) == before


@pytest.mark.parametrize(
    'name, line',
    [
        (
            'stage1_nano.py',
            "default_hooks['sample_captions']['dataset'].update(limit=8)",
        ),
        (
            'stage2_nano_locna.py',
            "train_dataloader['dataset'].update(data_root='data/nano/test')",
        ),
    ],
)
def test_other_images_of_a_config_are_added_to_the_cache(configs, name, line):
    before = {s.name: s.outputs for s in make(NANO).steps}
    change(configs / name, line)
    steps = make(NANO).steps
    (training,) = (
        step
        for step in steps
        if step.name.startswith('train_')
        and copied_config(name) in step.command
        and step.name not in before
    )
    (cached,) = (n for n in training.needs if n.startswith('features_'))
    assert cached not in before
    (step,) = (step for step in steps if step.name == cached)
    assert copied_config(name) in step.command
    assert step.outputs in before.values()


TRAINED_NECK = "model['neck'].update(frozen=False)"


@pytest.mark.parametrize('names', [['stage1', 'stage2'], ['stage2']])
def test_trained_vision_modules_have_no_cached_features(configs, names):
    for name in names:
        change(configs / f'{name}_nano.py', TRAINED_NECK)
    setup = NANO._replace(trainings=with_needed(NANO.trainings, ['stage2']))
    steps = make(setup).steps
    commands = [s.command for s in steps if s.name.startswith('train_')]
    found = ['--features' in command for command in commands]
    assert found == ['stage1' not in names, False]
    cached = [s for s in steps if s.name.startswith('features_')]
    assert len(cached) == 2 - len(names)


@pytest.mark.parametrize(
    ('config', 'line', 'message'),
    [
        (
            'stage1_nano.py',
            TRAINED_NECK,
            r'stage1_nano.py trains model.neck \(frozen=False\), but '
            r'\S*stage2_nano.py, which reads its checkpoints, does not',
        ),
        (
            'stage1_nano_ablation_b.py',
            "model['head'].update(num_layers=2)",
            r'model.head of \S*stage1_nano_ablation_b.py is not that of '
            r'\S*stage2_nano_ablation_b.py',
        ),
        (
            'dpo_nano.py',  # begins with stage 2 and is tested with itself
            "model['head'].update(num_layers=3)",
            r'model.head of \S*stage2_nano.py is not that of \S*dpo_nano.py',
        ),
    ],
)
def test_configs_that_cannot_read_a_checkpoint_are_refused(
    configs, config, line, message
):
    change(configs / config, line)
    with pytest.raises(ValueError, match=message):
        make(NANO)


def test_the_features_of_a_training_are_not_those_of_another_vision(configs):
    change(configs / 'dpo_nano.py', "model['neck'].update(cross_every=2)")
    made = {s.name: s.command for s in make(NANO).steps}
    found = {
        run.training.name: command[command.index('--features') + 1]
        for run in make(NANO).runs
        if '--features' in (command := made[f'train_{run.folder.name}'])
    }
    assert found['stage2'] == found['stage1'] != found['dpo']
    for name, command in made.items():
        if name.startswith('features_'):
            is_dpo = copied_config('dpo_nano.py') in command
            assert (found['dpo'] in command) == is_dpo


def test_changed_photographs_are_other_data(photos):
    def digest():
        return Plan(small(photos), (1,)).digest

    (photos / 'link').symlink_to(photos)
    before = digest()
    (photos / '.hidden').write_text('x')
    assert digest() == before
    (photos / 'dog.txt').write_text('two dogs')
    assert digest() != before


def test_seeds_and_shares_have_folders_of_their_own(setup):
    both = set(folders(setup, (1, 2)).values())
    assert len(both) == 2 * len(setup.trainings)
    shortened = set(folders(setup, share=0.1).values())
    assert not set(folders(setup).values()) & shortened


def test_a_share_shortens_data_and_iterations():
    made = Plan(NANO, (1,), 0.01)
    assert '120' in made.steps[0].command
    assert {run.iterations for run in made.runs} == {4, 8, 16}
    assert Plan(NANO, (1,)).digest != made.digest


def test_a_share_limits_records_and_test_photographs(photos):
    made = Plan(small(photos), (1,), 0.02)
    limit = 'train_dataloader.dataset.limit=100'
    for step in made.steps:
        if step.name.startswith(('train_', 'features_')):
            fewer = limit.replace('100', '35')
            is_fewer = '_35_descriptions' in step.name
            assert (fewer if is_fewer else limit) in step.command
            assert (limit in step.command) != is_fewer
        if step.name.startswith('test_') and '_failures_' in step.name:
            assert step.command[step.command.index('--count') + 1] == '4'
    complete = {w for s in Plan(small(photos), (1,)).steps for w in s.command}
    assert limit not in complete and {'200', '100'} <= complete


def test_a_share_shortens_the_warmup_too():
    made = Plan(NANO, (1,), 0.5)
    (stage1,) = [s for s in made.steps if s.name.startswith('train_stage1-')]
    assert 'max_iters=400' in stage1.command
    assert 'param_scheduler.0.warmup=25' in stage1.command


def test_a_share_of_a_config_without_warmup(configs):
    change(configs / 'dpo_nano.py', 'param_scheduler[0].pop("warmup")')
    runs = make(NANO, share=0.1).runs
    iterations = {run.training.name: run.iterations for run in runs}
    assert iterations['dpo'] == 4


def test_a_setting_that_a_config_does_not_have_names_it(configs):
    change(configs / 'stage2_nano.py', 'param_scheduler = []')
    with pytest.raises(ValueError, match='stage2_nano.py: .* an empty list'):
        make(NANO)


@pytest.mark.parametrize('value', ['"abc"', '-5', '400.5'])
def test_iterations_that_are_no_number_name_the_config(configs, value):
    change(configs / 'stage2_nano.py', f'max_iters = {value}')
    with pytest.raises(ValueError, match='max_iters is .*stage2_nano.py; exp'):
        make(NANO)


def test_the_row_of_a_config_has_its_iterations(configs):
    change(configs / 'stage2_nano.py', 'max_iters = 300')
    (length,) = [c for c in make(NANO).setup.curves if c.unit == 'iterations']
    assert list(length.labels.values()) == ['100', '200', '300', '800', '1600']
    assert length.labels['stage2'] == '300'


def test_curves_are_drawn_of_those_that_were_trained():
    step = make(NANO).steps[-1]
    assert step.name.startswith('curves_') and not step.needs_all
    assert '--skip' in step.command


def test_other_trainings_have_other_curves():
    few = NANO._replace(trainings=with_needed(NANO.trainings, ['stage1']))
    assert Plan(few, (1,)).curves != Plan(NANO, (1,)).curves


def test_the_trainings_of_a_made_part_wait_for_it():
    made = Plan(NANO, (1,))
    steps = {step.name: step for step in made.steps}
    (part,) = [name for name in steps if name.startswith('part_')]
    waiting = {name for name, step in steps.items() if part in step.needs}
    assert {name.split('-seed')[0] for name in waiting} == {
        f'{kind}_{name}'
        for kind in ('train', 'test')
        for name in ('blip2', 'blip2_ft')
    }
    assert '--captions-only' in steps[part].command


def test_a_share_of_a_part_costs_less():
    costs = []
    for share in (1.0, 0.1):
        steps = make(NANO, share=share).steps
        costs += [s.cost for s in steps if s.name.startswith('part_')]
    whole, part = costs
    assert part < whole / 2


def test_a_part_that_no_training_needs_is_not_made():
    trainings = with_needed(NANO.trainings, ['stage2'])
    made = Plan(NANO._replace(trainings=trainings), (1,))
    assert not [s for s in made.steps if s.name.startswith('part_')]


def test_a_changed_part_trains_again_what_needs_it():
    part = NANO.parts['captions_llm']
    changed = part._replace(command=lambda share: ('python', 'other.py'))
    setup = NANO._replace(parts={'captions_llm': changed})
    before, after = folders(), folders(setup)
    differing = {key for key, folder in before.items() if after[key] != folder}
    assert differing == {('blip2', 1), ('blip2_ft', 1)}


def test_a_missing_package_is_named_before_anything_runs(monkeypatch):
    monkeypatch.setitem(sys.modules, 'peft', None)
    only = with_needed(NANO.trainings, ['finetune_vicuna'])
    with pytest.raises(ImportError, match=r'finetune_vicuna: .*needs peft'):
        Plan(NANO._replace(trainings=only), [1])
    only = with_needed(NANO.trainings, ['locna'])
    assert Plan(NANO._replace(trainings=only), [1]).steps


def test_a_limit_of_a_config_does_not_hide_images_of_other_rows(configs):
    config = configs / 'stage2_nano.py'
    change(config, "train_dataloader['dataset'].update(limit=5)")
    only = ['stage2', 'stage2_35_descriptions', 'stage2_100_iterations']
    setup = NANO._replace(trainings=with_needed(NANO.trainings, only))
    made = make(setup)
    commands = {s.name: s for s in made.steps}
    cached = {}
    for run in made.runs:
        step = commands[f'train_{run.folder.name}']
        (name,) = (n for n in step.needs if n.startswith('features_'))
        cached[run.training.name] = commands[name].command
    limit = 'train_dataloader.dataset.limit=35'
    assert limit in cached['stage2_35_descriptions']
    assert limit not in cached['stage2']
    assert cached['stage2'] == cached['stage2_100_iterations']


def test_an_object_in_a_config_has_one_digest(configs):
    """Its text has an address, which differs in each process."""
    config = configs / 'stage2_nano_locna.py'
    text = config.read_text()
    found = set()
    for _ in range(2):
        config.write_text(f'{text}\nextra = [lambda: 0 for _ in range(50)]\n')
        found.add(folders()['locna', 1])
    assert len(found) == 1


def test_hooks_may_be_none(configs):
    change(configs / 'stage2_nano_locna.py', 'custom_hooks = None')
    assert folders()['locna', 1]
