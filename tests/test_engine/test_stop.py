# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""A stop signal ends a run after a step; nothing of it is lost."""

import multiprocessing
import os
import signal
import sys
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook

from minigpt4.engine.config import build_runner, latest_checkpoint
from minigpt4.signals import StopSignal

HOOK = '''
import os, signal
from mmengine.hooks import Hook


class Stop(Hook):
    """Rank 1 receives a signal in the third step."""

    def after_train_iter(self, runner, batch_idx, **kwargs):
        if batch_idx == 2 and os.environ.get('RANK', '1') == '1':
            os.kill(os.getpid(), signal.SIGTERM)
'''


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
def test_a_signal_saves_the_step_and_nothing_is_lost(name, make_cfg, losses):
    signum = getattr(signal, name)
    whole, cut = make_cfg('stream'), make_cfg('stream')
    model = train(whole).model
    cut.default_hooks.checkpoint.update(interval=100, save_optimizer=False)
    with pytest.raises(StopSignal) as stop:
        # twice at once: a scheduler signals the group, a launcher the rank
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


def test_a_signal_in_the_last_step_ends_nothing(make_cfg):
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


def test_data_workers_do_not_end_of_a_signal_to_the_group(make_cfg):
    cfg = make_cfg('stream', **{'train_dataloader.num_workers': 1})

    class StopWorkers(Hook):
        def after_train_iter(self, runner, batch_idx, **kwargs):
            if batch_idx == 3:
                for worker in multiprocessing.active_children():
                    os.kill(worker.pid, signal.SIGTERM)

    assert train(cfg, StopWorkers()).iter == 10
    assert not multiprocessing.active_children()


def test_all_ranks_stop_after_the_same_step(make_cfg, tmp_path, run_tool):
    (tmp_path / 'stopping.py').write_text(HOOK)
    cfg = make_cfg('stream', **{'default_hooks.checkpoint.interval': 100})
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
    assert 'stopped by SIGTERM after iteration 4 of 10; saved' in printed
    assert 'Traceback' not in printed
    assert latest_checkpoint(cfg.work_dir).endswith('iter_4.pth')
