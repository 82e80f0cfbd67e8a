# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Runs of DPO: resumed, on two ranks, on an export, on the nano model."""

import json
import multiprocessing
import os
import signal
from pathlib import Path

import pytest
import torch
from benchmarks import preference_accuracy
from mmengine.config import Config
from mmengine.hooks import Hook
from PIL import Image
from tests import curated_ledger
from tests.curated_ledger import make_ledger

from minigpt4.curation.export import ExportSettings, export_curation
from minigpt4.curation.pipeline import plan
from minigpt4.datasets import PreferenceDataset
from minigpt4.engine.cache_features import cache_features, use_features
from minigpt4.engine.config import build_runner, latest_checkpoint
from minigpt4.models.preference_loss import reward_margins
from minigpt4.nano.write_dataset import write_dataset
from minigpt4.prompts import Turn
from minigpt4.registry import MODELS

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / 'configs/minigpt4/dpo_nano.py'
NANO = ROOT / 'projects/minigpt4/nano/weights/minigpt4_nano.pth'
COLOURS = ('red', 'blue', 'green')


class Kill(Hook):
    """Kills the process at an iteration."""

    def __init__(self, iteration):
        self.iteration = iteration

    def after_train_iter(self, runner, batch_idx, **kwargs):
        if batch_idx + 1 == self.iteration:
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
def pairs(tmp_path):
    """Folder of five preference pairs."""
    folder = tmp_path / 'preference'
    (folder / 'image').mkdir(parents=True)
    lines = []
    for i in range(5):
        colour = COLOURS[i % 3]
        Image.new('RGB', (32, 32), colour).save(folder / f'image/{i}.jpg')
        record = dict(
            images=[f'image/{i}.jpg'],
            chosen=f'the {colour} square of detail {i}.',
            rejected='the circle is a circle is a circle.',
        )
        lines.append(json.dumps(record) + '\n')
    (folder / 'preference.jsonl').write_text(''.join(lines))
    return folder


@pytest.fixture
def make_dpo(make_cfg, pairs):
    """Function of settings to a config of a tiny run on ``pairs``."""

    def make(**options):
        return make_cfg(
            'sampler',
            CONFIG,
            **{
                'train_dataloader.dataset.data_root': str(pairs),
                'model.preference': dict(beta=0.1),
                'optim_wrapper.optimizer.lr': 0.05,
                **options,
            },
        )

    return make


def train(cfg, *hooks):
    runner = build_runner(cfg)
    for hook in hooks:
        runner.register_hook(hook, 'LOWEST')
    runner.train()
    return runner


def weights(path, entry='state_dict'):
    return torch.load(path, weights_only=True)[entry]


def test_a_killed_run_is_resumed_with_the_same_results(
    make_dpo, losses, scalars
):
    whole, cut = make_dpo(), make_dpo()
    train(whole)
    process = multiprocessing.get_context('fork').Process(
        target=train, args=(cut, Kill(5))
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    cut.load_from, cut.resume = latest_checkpoint(cut.work_dir), True
    assert cut.load_from.endswith('iter_4.pth')
    cut.experiment_name += '-resumed'
    train(cut)
    assert losses(cut) == losses(whole)
    assert losses(whole)[0] == pytest.approx(0.693147, abs=1e-6)
    for step, logged in scalars(whole).items():
        for name in ('reward_margin', 'reward_accuracy'):
            assert scalars(cut)[step][name] == logged[name]
    for entry in ('state_dict', 'reference'):
        expected, found = (
            weights(latest_checkpoint(cfg.work_dir), entry)
            for cfg in (whole, cut)
        )
        assert set(expected) == set(found)
        for name, tensor in expected.items():
            assert torch.equal(tensor, found[name])


def test_two_ranks_train_like_one(make_dpo, losses, tmp_path, run_tool):
    alone, two = make_dpo(max_iters=4), make_dpo(max_iters=4)
    train(alone)
    two.dump(tmp_path / 'cfg.py')
    text = run_tool('train.py', tmp_path / 'cfg.py', cwd=tmp_path, ranks=2)
    assert 'global batch 4 = 2 ranks x 2 samples' in text
    assert losses(two) == pytest.approx(losses(alone), abs=1e-5)
    assert len(set(losses(two))) == 4


def test_the_reference_is_what_the_run_loads(make_dpo):
    first = make_dpo(max_iters=2)
    train(first)
    started = latest_checkpoint(first.work_dir)
    second = make_dpo(max_iters=2, load_from=started)
    train(second)
    path = latest_checkpoint(second.work_dir)
    reference = weights(path, 'reference')
    for name, tensor in reference.items():
        assert torch.equal(tensor, weights(started)[name])
        assert not torch.equal(tensor, weights(path)[name])


def test_a_checkpoint_of_stage_2_cannot_be_resumed(make_cfg, make_dpo):
    # the seed of dpo_nano.py; another one would be refused first
    stage2 = make_cfg('sampler', max_iters=2, **{'randomness.seed': 42})
    train(stage2)
    cfg = make_dpo(load_from=latest_checkpoint(stage2.work_dir), resume=True)
    with pytest.raises(ValueError, match='it has no reference weights'):
        train(cfg)


def test_the_hook_needs_a_preference_model(make_dpo):
    cfg = make_dpo(max_iters=1)
    del cfg.model['preference']
    with pytest.raises(ValueError, match='has no model.preference; set it'):
        train(cfg)


def test_a_step_on_the_export_of_a_curation(tmp_path, make_dpo, losses):
    out = tmp_path / 'export'
    with make_ledger(tmp_path) as ledger:
        planned = plan(ledger, curated_ledger.steps())
        settings = ExportSettings(layouts=['preference'])
        export_curation(ledger, planned, settings, out)
    cfg = make_dpo(
        max_iters=1, **{'train_dataloader.dataset.data_root': str(out)}
    )
    train(cfg)
    assert losses(cfg) == pytest.approx([0.693147], abs=1e-6)


def nano_config(folder, **options):
    cfg = Config.fromfile(CONFIG)
    cfg.default_hooks.pop('sample_captions')
    cfg.work_dir = str(folder / 'run')
    cfg.experiment_name = folder.name
    cfg.load_from = str(NANO)
    cfg.merge_from_dict(
        {
            'train_dataloader.num_workers': 0,
            'train_dataloader.persistent_workers': False,
            'train_dataloader.dataset.data_root': str(folder / 'preference'),
            **options,
        }
    )
    return cfg


def held_out_margins(model, folder, pipeline):
    """Margins of the held-out pairs."""
    dataset = PreferenceDataset(
        data_root=str(folder / 'test'), pipeline=pipeline
    )
    samples = [dataset[i] for i in range(len(dataset))]
    (piece,) = model.train_collator()(samples)['pieces']
    piece = model.data_preprocessor(piece, True)
    with torch.no_grad():
        scores = model.preference.scores(
            model, piece['images'], piece['inputs']
        )
    return reward_margins(*scores, model.preference.beta)


@pytest.mark.slow
def test_held_out_pairs_of_the_nano_model(tmp_path, capsys):
    """Few steps raise the share of held-out pairs that are ranked right."""
    write_dataset(
        tmp_path, pairs=1, descriptions=1, test_scenes=60, preferences=300
    )
    cfg = nano_config(
        tmp_path,
        max_iters=25,
        **{
            'param_scheduler.0.warmup': 5,
            'optim_wrapper.optimizer.lr': 2e-3,
        },
    )
    runner = train(cfg)
    model = runner.model
    pipeline = cfg.train_dataloader.dataset.pipeline
    margins = held_out_margins(model, tmp_path, pipeline)
    assert (margins > 0).float().mean() > 0.6
    assert margins.mean() > 0.02
    model.preference.set_reference(model)
    assert held_out_margins(model, tmp_path, pipeline).abs().max() == 0
    preference_accuracy.main(
        [str(CONFIG), latest_checkpoint(cfg.work_dir), str(tmp_path / 'test')]
    )
    printed = capsys.readouterr().out
    assert '60 pairs, 0 skipped\n' in printed
    share = (margins > 0).float().mean()
    assert f'reward accuracy {share:.3f}' in printed
    # the checkpoint is one for answers too
    plain = {k: v for k, v in cfg.model.items() if k != 'preference'}
    again = MODELS.build(plain)
    again.load_state_dict(
        weights(latest_checkpoint(cfg.work_dir)), strict=False
    )
    dataset = PreferenceDataset(
        data_root=str(tmp_path / 'test'), pipeline=pipeline
    )
    sample = dataset[0]
    sample.turns = [Turn(sample.turns[0].question)]
    (answer,) = again.eval().generate([sample], max_new_tokens=60)
    assert answer.text.startswith('The image shows')


@pytest.mark.slow
def test_cached_features_give_the_same_losses(tmp_path):
    write_dataset(
        tmp_path, pairs=1, descriptions=1, test_scenes=1, preferences=8
    )
    results = []
    for cached in (False, True):
        cfg = nano_config(
            tmp_path,
            max_iters=2,
            global_batch_size=4,
            **{'default_hooks.logger.interval': 1},
        )
        cfg.work_dir += str(cached)
        cfg.experiment_name += str(cached)
        if cached:
            cache_features(cfg, tmp_path / 'features', 'cpu', 'float32')
            use_features(cfg, str(tmp_path / 'features'))
        runner = train(cfg)
        results.append(runner.model.head.layers[0].weight.detach())
    torch.testing.assert_close(*results, atol=1e-5, rtol=1e-4)
