# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""A run that is killed and resumed equals an uninterrupted run."""

import json
import multiprocessing
import os
import random
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook

from minigpt4.datasets import InstructionDataset
from minigpt4.engine.config import build_runner, latest_checkpoint

KINDS = pytest.mark.parametrize('kind', ['stream', 'sampler'])


class Draw(Hook):
    """Draws random numbers in each iteration, as dropout would."""

    def __init__(self):
        self.drawn = {}

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.drawn[batch_idx] = (
            random.random(),
            np.random.rand(),
            np.random.normal(),
            torch.rand(1).item(),
        )


class Kill(Hook):
    """Kills the process at an iteration."""

    def __init__(self, iteration):
        self.iteration = iteration

    def after_train_iter(self, runner, batch_idx, **kwargs):
        if batch_idx + 1 == self.iteration:
            os.kill(os.getpid(), signal.SIGKILL)


class Interrupt(Hook):
    """Interrupts the run in its third step."""

    def before_train_iter(self, runner, batch_idx, **kwargs):
        if batch_idx == 2:
            raise KeyboardInterrupt


def train(cfg, *hooks):
    runner = build_runner(cfg)
    for hook in hooks:
        runner.register_hook(hook, 'LOWEST')
    runner.train()
    return runner


def resume(cfg):
    cfg.load_from, cfg.resume = latest_checkpoint(cfg.work_dir), True
    cfg.experiment_name += '-resumed'
    draw = Draw()
    return train(cfg, draw), draw.drawn


@KINDS
def test_a_killed_run_is_resumed_with_the_same_losses(kind, make_cfg, losses):
    workers = {'train_dataloader.num_workers': 2 * (kind == 'stream')}
    whole, cut = make_cfg(kind, **workers), make_cfg(kind, **workers)
    draw = Draw()
    model = train(whole, draw).model
    iteration = random.randrange(3, 10)
    process = multiprocessing.get_context('fork').Process(
        target=train, args=(cut, Draw(), Kill(iteration))
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    first = 2 * (iteration // 2)
    assert latest_checkpoint(cut.work_dir).endswith(f'iter_{first}.pth')
    runner, drawn = resume(cut)
    assert list(drawn) == list(range(first, 10))
    assert drawn == {i: draw.drawn[i] for i in drawn}
    assert losses(cut) == losses(whole), f'killed at {iteration}'
    assert len(set(losses(cut))) == 10
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, runner.model.state_dict()[name])


def test_counts_are_restored(make_cfg):
    cfg = make_cfg('sampler', **{'model.max_text_length': 3})
    cfg.max_iters = 4
    train(cfg)
    cfg.max_iters = 10
    runner, _ = resume(cfg)
    assert runner.train_loop.counts['truncated'] == 40


@KINDS
def test_load_from_starts_a_new_run(kind, make_cfg, losses):
    """Stage 2 loads the weights of stage 1, not its data position."""
    first = make_cfg(kind, max_iters=4)
    train(first)
    head = latest_checkpoint(first.work_dir)
    runs = []
    for restores in (True, False):
        cfg = make_cfg(kind, max_iters=3, load_from=head)
        cfg.optim_wrapper.optimizer.lr = 0.0  # losses are of the samples
        cfg.param_scheduler[0].update(start=0.0, minimum=0.0)
        if not restores:
            del cfg.default_hooks.resume
        draw = Draw()
        model = train(cfg, draw).model
        assert list(draw.drawn) == [0, 1, 2]
        runs.append((losses(cfg), draw.drawn))
    assert runs[0] == runs[1]
    saved = torch.load(head, weights_only=True)['state_dict']
    for name in ('head.layers.0.weight', 'head.layers.0.bias'):
        assert torch.equal(model.get_parameter(name), saved[name])


def test_other_number_of_data_workers_reads_the_same_samples(
    make_cfg, losses, written
):
    whole, cut = (make_cfg('stream', max_iters=4) for _ in range(2))
    train(whole)
    with pytest.raises(KeyboardInterrupt):
        train(cut, Interrupt())
    cut.train_dataloader.num_workers = 2
    resume(cut)
    assert losses(cut) == losses(whole)
    assert 'each shard is read by 2 data workers' in written(cut)


def test_another_number_of_streams_goes_on_with_other_shards(
    make_cfg, written
):
    cfg = make_cfg('stream', max_iters=2)
    cfg.train_dataloader.dataset.streams = 1
    train(cfg)
    cfg.max_iters, cfg.train_dataloader.dataset.streams = 4, 2
    runner, _ = resume(cfg)
    assert 'streams is 2, the checkpoint has 1' in written(cfg)
    saved = torch.load(latest_checkpoint(cfg.work_dir), weights_only=True)
    assert saved['data']['streams'] == 2
    ((a, b),) = (group.values() for group in saved['data']['positions'])
    assert len(a) == len(b) == 2
    cfg.max_iters = 6
    resume(cfg)
    assert written(cfg).count('the checkpoint has 1') == 1


def rates(logged) -> dict:
    """The learning rates, of mmengine's group without parameters too."""
    return {
        step: (entry['lr'], entry['base_lr']) for step, entry in logged.items()
    }


def test_the_rates_in_the_log_go_on(make_cfg, scalars):
    whole, cut = (make_cfg('sampler', max_iters=6) for _ in range(2))
    train(whole)
    with pytest.raises(KeyboardInterrupt):
        train(cut, Interrupt())
    resume(cut)
    assert rates(scalars(cut)) == rates(scalars(whole))


def test_more_iterations_use_the_schedule_of_the_new_length(
    make_cfg, scalars, written
):
    """mmengine #1565, xtuner #211: the rate stayed at its end."""
    whole, cut = make_cfg('sampler', max_iters=8), make_cfg('sampler')
    train(whole)
    cut.max_iters = 4
    train(cut)
    cut.max_iters = 8
    resume(cut)
    wanted, found = rates(scalars(whole)), rates(scalars(cut))
    assert {i: found[i] for i in range(5, 9)} == {
        i: wanted[i] for i in range(5, 9)
    }
    assert 'is followed: WarmupCosineLR.total 4 -> 8.' in written(cut)


def test_other_settings_of_the_optimizer_are_used_and_named(
    make_cfg, scalars, written
):
    """mmdetection #6402, pytorch/examples #816."""
    cfg = make_cfg('sampler', max_iters=4)
    train(cfg)
    optimizer = dict(lr=1e-5, weight_decay=0.25)
    whole = make_cfg('sampler', max_iters=6)
    for changed in (cfg, whole):
        changed.max_iters = 6
        changed.optim_wrapper.optimizer.update(optimizer)
        changed.param_scheduler[0].update(minimum=1e-7)
    train(whole)
    runner, _ = resume(cfg)
    wanted, found = rates(scalars(whole)), rates(scalars(cfg))
    assert {5: found[5], 6: found[6]} == {5: wanted[5], 6: wanted[6]}
    first, plain = runner.optim_wrapper.optimizer.param_groups
    assert (first['weight_decay'], plain['weight_decay']) == (0.25, 0)
    assert first['initial_lr'] == 1e-5
    text = written(cfg)
    for change in ('lr 0.02 -> 1e-05', 'weight_decay 0.05 -> 0.25'):
        assert change in text
    assert 'WarmupCosineLR.minimum 0.001 -> 1e-07' in text


def test_schedules_of_mmengine_are_replayed(make_cfg, scalars):
    """Their next rate follows from the present one, not from the step."""
    schedules = [
        dict(
            type='LinearLR', by_epoch=False, begin=0, end=3, start_factor=0.1
        ),
        dict(type='StepLR', by_epoch=False, begin=3, step_size=2, gamma=0.5),
    ]
    whole, cut = make_cfg('sampler', max_iters=8), make_cfg('sampler')
    whole.param_scheduler = schedules
    cut.param_scheduler = [schedules[0], dict(schedules[1], gamma=0.1)]
    train(whole)
    cut.max_iters = 6
    train(cut)
    cut.param_scheduler, cut.max_iters = schedules, 8
    resume(cut)
    wanted, found = rates(scalars(whole)), rates(scalars(cut))
    assert found[6] != wanted[6]
    assert found[7] == pytest.approx(wanted[7])
    assert found[8] == pytest.approx(wanted[8])


def test_a_schedule_before_its_first_step_is_resumed(make_cfg, scalars):
    later = [dict(type='StepLR', by_epoch=False, begin=4, step_size=1)]
    cfg = make_cfg('sampler', max_iters=6, param_scheduler=later)
    with pytest.raises(KeyboardInterrupt):
        train(cfg, Interrupt())
    resume(cfg)
    found = rates(scalars(cfg))
    assert found[4] == (0.02, 0.02) and found[6] == pytest.approx((0.002,) * 2)


def test_another_number_of_schedules_is_refused(make_cfg):
    cfg = make_cfg('sampler', max_iters=2)
    train(cfg)
    cfg.max_iters, cfg.param_scheduler = 4, None
    with pytest.raises(ValueError, match='1 learning-rate .* config has 0'):
        resume(cfg)


def test_another_global_batch_continues_after_the_samples_read(
    make_cfg, written, monkeypatch
):
    """mlfoundations/open_lm #67, accelerate #2016."""
    read = []
    get = InstructionDataset.__getitem__

    def noted(self, key):
        read.append(key[1])
        return get(self, key)

    monkeypatch.setattr(InstructionDataset, '__getitem__', noted)
    cfg = make_cfg('sampler', max_iters=2)
    train(cfg)
    assert read == list(range(8))
    read.clear()
    cfg.max_iters, cfg.global_batch_size = 4, 2
    resume(cfg)
    assert read == [8, 9, 10, 11]
    read.clear()
    cfg.max_iters, cfg.global_batch_size = 6, 3
    resume(cfg)
    assert read == list(range(12, 18))
    text = written(cfg)
    for old, new, samples in ((4, 2, 8), (2, 3, 12)):
        assert (
            f'had {old}; the run goes on with {new}, after the {samples} '
            'samples read.'
        ) in text


def test_an_unchanged_config_is_resumed_without_a_warning(make_cfg, written):
    cfg = make_cfg('sampler', max_iters=4)
    with pytest.raises(KeyboardInterrupt):
        train(cfg, Interrupt())
    resume(cfg)
    assert 'is followed' not in written(cfg)
    assert 'global batch of' not in written(cfg)
    assert 'nothing is left' not in written(cfg)
    cfg.experiment_name += '-again'
    resume(cfg)
    assert 'has 4 iterations and max_iters is 4: nothing' in written(cfg)


def test_an_incomplete_last_checkpoint_file_is_ignored(make_cfg, tmp_path):
    cfg = make_cfg('sampler', max_iters=4)
    train(cfg)
    note = Path(cfg.work_dir) / 'last_checkpoint'
    assert note.read_text().endswith('iter_4.pth')
    note.write_text(note.read_text()[:-6])
    assert latest_checkpoint(cfg.work_dir).endswith('iter_4.pth')
    note.unlink()
    (Path(cfg.work_dir) / '.iter_9.pth.part').write_bytes(b'half')
    (Path(cfg.work_dir) / 'iter_best.pth').write_bytes(b'')
    assert latest_checkpoint(cfg.work_dir).endswith('iter_4.pth')
    cfg.max_iters = 5
    runner, drawn = resume(cfg)
    assert list(drawn) == [4] and runner.iter == 5


def test_latest_checkpoint_counts_iterations(tmp_path):
    assert latest_checkpoint(str(tmp_path)) is None
    assert latest_checkpoint(str(tmp_path / 'absent')) is None
    for number in (900, 1000, 20):
        (tmp_path / f'iter_{number}.pth').touch()
    assert latest_checkpoint(str(tmp_path)).endswith('iter_1000.pth')


def test_drawn_captions_and_flips_are_the_same_after_a_resume(
    make_cfg, losses, pair_data
):
    """Stage 1 on images with several captions each."""
    records = [
        dict(image_id=str(i), caption=f'the {colour} square, {number}')
        for i in range(5)
        for number, colour in enumerate(('red', 'blue', 'green'))
    ]
    (pair_data / 'filter_cap.json').write_text(json.dumps(records))

    def make():
        cfg = make_cfg('sampler', **{'model.prompt_template': 'bare'})
        data = cfg.train_dataloader.dataset
        data.draw_caption = True
        cfg.train_dataloader.sampler.seed = 0
        data.pipeline = [
            dict(type='minigpt4.DrawFlip'),
            data.pipeline[0],
            dict(type='minigpt4.CleanCaption'),
            dict(type='minigpt4.PackSample'),
        ]
        return cfg

    whole, cut = make(), make()
    train(whole)
    with pytest.raises(KeyboardInterrupt):
        train(cut, Interrupt())
    resume(cut)
    assert losses(cut)[-5:] == pytest.approx(losses(whole)[-5:], abs=1e-6)
