# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""A stop signal ends a run after a step and saves a checkpoint."""

import multiprocessing
import os
import signal
import sys
from pathlib import Path

import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook

from minigpt4.engine.config import build_runner, latest_checkpoint
from minigpt4.utils import signals
from minigpt4.utils.signals import StopSignal

HOOK = '''
import os, signal
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook


class Stop(Hook):
    """Rank 1 receives a signal in the third step."""

    def after_train_iter(self, runner, batch_idx, **kwargs):
        if batch_idx == 2 and os.environ.get('RANK', '1') == '1':
            os.kill(os.getpid(), signal.SIGTERM)


class StopValidation(Hook):
    """Rank 1 receives a signal in the first batch of a validation."""

    def after_val_iter(self, runner, batch_idx, **kwargs):
        if batch_idx == 0 and os.environ.get('RANK') == '1':
            os.kill(os.getpid(), signal.SIGTERM)
        print(f'validation batch {batch_idx}', flush=True)


class Scores(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results += data_samples

    def compute_metrics(self, results):
        return dict(score=1)
'''


class Scores(BaseMetric):
    """Gives the scores 0, 1, 2, ... to one validation after another."""

    def __init__(self):
        super().__init__()
        self.number = 0

    def process(self, data_batch, data_samples):
        self.results += data_samples

    def compute_metrics(self, results):
        self.number += 1
        return dict(score=self.number)


class StopValidation(Hook):
    """Sends a signal to this process, or its workers, in a validation."""

    def __init__(self, validation, workers=False):
        self.validation, self.workers = validation, workers
        self.seen = []

    def after_val_iter(self, runner, batch_idx, **kwargs):
        self.seen.append((runner.iter, batch_idx))
        if self.seen[-1] == (self.validation, 0):
            workers = multiprocessing.active_children()
            pids = [worker.pid for worker in workers]
            for pid in pids if self.workers else [os.getpid()]:
                os.kill(pid, signal.SIGTERM)


def validated(cfg, workers=0):
    """A config with a validation of five batches after each two steps."""
    data = cfg.train_dataloader.dataset.to_dict()
    cfg.val_dataloader = dict(
        batch_size=1,
        num_workers=workers,
        sampler=dict(type='DefaultSampler', shuffle=False),
        dataset=dict(data, keep_answers=False),
    )
    cfg.val_cfg, cfg.val_evaluator = dict(), [Scores()]
    cfg.train_cfg.val_interval = 2
    return cfg


class Stop(Hook):
    """Sends signals to this process in a step."""

    def __init__(self, batch, *signals):
        self.batch, self.signals = batch, signals

    def after_train_iter(self, runner, batch_idx, **kwargs):
        if batch_idx == self.batch:
            for signum in self.signals:
                os.kill(os.getpid(), signum)


def train(cfg, *hooks):
    runner = build_runner(cfg)
    for hook in hooks:
        runner.register_hook(hook, 'VERY_HIGH')
    runner.train()
    return runner


@pytest.mark.parametrize('name', ['SIGTERM', 'SIGINT', 'SIGHUP'])
def test_a_stopped_run_is_resumed_with_the_same_losses(
    name, make_cfg, losses, monkeypatch
):
    monkeypatch.setattr(signals, 'REPEAT_SECONDS', 600)
    signum = getattr(signal, name)
    whole, cut = make_cfg('stream'), make_cfg('stream')
    model = train(whole).model
    cut.default_hooks.checkpoint.update(interval=100, save_optimizer=False)
    with pytest.raises(StopSignal) as stop:
        # twice: a scheduler signals the group, a launcher the rank
        train(cut, Stop(4, signum, signum))
    path = latest_checkpoint(cut.work_dir)
    assert path.endswith('iter_5.pth')
    assert stop.value.signum == signum
    assert str(stop.value).startswith(
        f'stopped by {name} after iteration 5 of 10; saved {path}; '
    )
    assert '--resume' in str(stop.value)
    cut.resume, cut.experiment_name = True, cut.experiment_name + '-resumed'
    resumed = train(cut).model
    assert losses(cut) == losses(whole)
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[key])


def test_a_signal_in_the_last_step_is_ignored(make_cfg):
    cfg = make_cfg('sampler', max_iters=3)
    assert train(cfg, Stop(2, signal.SIGTERM)).iter == 3
    assert latest_checkpoint(cfg.work_dir).endswith('iter_3.pth')


def test_a_step_that_was_saved_is_not_saved_again(make_cfg):
    cfg = make_cfg('sampler', **{'default_hooks.checkpoint.interval': 1})
    cfg.default_hooks.checkpoint.max_keep_ckpts = 2
    with pytest.raises(StopSignal):
        train(cfg, Stop(4, signal.SIGTERM))
    saved = sorted(path.name for path in Path(cfg.work_dir).glob('*.pth'))
    assert saved == ['iter_4.pth', 'iter_5.pth']


def test_a_signal_in_a_validation_saves_the_last_step(make_cfg):
    cfg = validated(make_cfg('sampler', max_iters=6))
    cfg.default_hooks.checkpoint.interval = 100
    hook = StopValidation(4)
    with pytest.raises(StopSignal) as stop:
        train(cfg, hook)
    path = latest_checkpoint(cfg.work_dir)
    assert path.endswith('iter_4.pth')
    assert str(stop.value).startswith(
        'stopped by SIGTERM in the validation after iteration 4 of 6; saved '
        f'{path}; '
    )
    assert hook.seen == [*((2, i) for i in range(5)), (4, 0)]
    cfg.resume, cfg.experiment_name = True, cfg.experiment_name + '-resumed'
    cfg.val_evaluator = [Scores()]
    resumed = StopValidation(None)
    assert train(cfg, resumed).iter == 6
    assert resumed.seen == [(6, i) for i in range(5)]


def test_data_workers_of_a_validation_ignore_signals(make_cfg):
    cfg = validated(make_cfg('sampler', max_iters=2), workers=1)
    hook = StopValidation(2, workers=True)
    assert train(cfg, hook).iter == 2
    assert len(hook.seen) == 5


def test_a_resumed_run_removes_the_best_checkpoint_before_it(
    make_cfg, tmp_path
):
    cfg = validated(make_cfg('sampler', max_iters=4))
    cfg.default_hooks.checkpoint.save_best = 'score'
    cfg.default_hooks.checkpoint.rule = 'greater'
    train(cfg)
    folder = Path(cfg.work_dir)
    (folder / 'best_other_iter_2.pth').write_bytes(b'of the user')
    (folder / 'best_score_iter_99.pth').write_bytes(b'of another run')
    cfg.max_iters, cfg.resume = 6, True
    cfg.experiment_name += '-resumed'
    scores = Scores()
    scores.number = 7
    cfg.val_evaluator = [scores]
    train(cfg)
    assert sorted(path.name for path in folder.glob('best_*')) == [
        'best_other_iter_2.pth',
        'best_score_iter_6.pth',
        'best_score_iter_99.pth',
    ]


def test_data_workers_ignore_signals(make_cfg):
    cfg = make_cfg('stream', **{'train_dataloader.num_workers': 1})
    before = {*multiprocessing.active_children()}  # of earlier tests

    class StopWorkers(Hook):
        def after_train_iter(self, runner, batch_idx, **kwargs):
            if batch_idx == 3:
                for worker in {*multiprocessing.active_children()} - before:
                    os.kill(worker.pid, signal.SIGTERM)

    assert train(cfg, StopWorkers()).iter == 10
    assert {*multiprocessing.active_children()} <= before


@pytest.mark.parametrize('validating', [False, True])
def test_all_ranks_stop_after_the_same_step(
    validating, make_cfg, tmp_path, run_tool
):
    (tmp_path / 'stopping.py').write_text(HOOK)
    kind = 'sampler' if validating else 'stream'
    cfg = make_cfg(kind, **{'default_hooks.checkpoint.interval': 100})
    if validating:
        cfg = validated(cfg)
        cfg.val_evaluator = dict(type='stopping.Scores')
        cfg.train_cfg.val_interval = 4
        cfg.custom_hooks.append(dict(type='stopping.StopValidation'))
    else:
        cfg.custom_hooks.append(dict(type='stopping.Stop'))
    cfg.dump(tmp_path / 'cfg.py')
    sys.path.insert(0, str(tmp_path))
    try:
        with pytest.raises(AssertionError, match='143: ') as ended:
            run_tool('train.py', tmp_path / 'cfg.py', cwd=tmp_path, ranks=2)
    finally:
        sys.path.remove(str(tmp_path))
        sys.modules.pop('stopping', None)
    printed = str(ended.value)
    where = 'in the validation ' if validating else ''
    assert f'by SIGTERM {where}after iteration 4 of 10; saved' in printed
    assert 'validation batch 2' not in printed
    assert 'Traceback' not in printed
    assert latest_checkpoint(cfg.work_dir).endswith('iter_4.pth')
