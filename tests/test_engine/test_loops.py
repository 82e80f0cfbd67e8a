# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Trainings of a tiny model: losses, checkpoints and counts."""

from pathlib import Path

import pytest
import torch
from mmengine.evaluator import BaseMetric

from minigpt4.engine.config import build_runner, drop_training

KINDS = pytest.mark.parametrize('kind', ['stream', 'sampler'])


def train(cfg):
    runner = build_runner(cfg)
    runner.train()
    return runner


@KINDS
def test_loss_falls_and_only_the_projection_is_saved(
    kind, make_cfg, scalars, written
):
    cfg = make_cfg(
        kind,
        **{
            'max_iters': 24,
            'default_hooks.checkpoint.interval': 12,
            'optim_wrapper.optimizer.lr': 0.05,
        },
    )
    runner = train(cfg)
    logged = scalars(cfg)
    assert list(logged) == list(range(1, 25))
    loss = [entry['loss'] for entry in logged.values()]
    assert sum(loss[-5:]) < 0.92 * sum(loss[:5])
    scheduler = runner.param_schedulers[0]
    assert scheduler.total == 24  # filled in
    # the logger comes before the scheduler's step
    for step, entry in logged.items():
        assert entry['lr'] == pytest.approx(scheduler.rate(0.05, step - 1))

    files = sorted(Path(cfg.work_dir).glob('*.pth'))
    assert [f.name for f in files] == ['iter_12.pth', 'iter_24.pth']
    assert files[1].stat().st_size < 1_000_000
    saved = torch.load(files[1], weights_only=True)
    head = {'head.layers.0.weight', 'head.layers.0.bias'}
    assert set(saved['state_dict']) == {*head, 'llm_fingerprint'}
    assert {len(g['params']) for g in saved['optimizer']['param_groups']} == {
        1
    }
    assert len(saved['optimizer']['state']) == 2
    for name in head:
        trained = runner.model.get_parameter(name)
        assert torch.equal(saved['state_dict'][name], trained)
    text = written(cfg)
    assert 'global batch 4 = 1 ranks x 4 samples, in pieces of 4' in text
    assert '24 iterations done; 0 samples were skipped' in text


def test_frozen_weights_do_not_change(make_cfg):
    runner = build_runner(make_cfg('sampler', max_iters=3))
    before = {n: p.clone() for n, p in runner.model.named_parameters()}
    runner.train()
    after = dict(runner.model.named_parameters())
    moved = {n for n in before if not torch.equal(before[n], after[n])}
    assert moved == {'head.layers.0.weight', 'head.layers.0.bias'}


@pytest.mark.parametrize('size', [1, 3])
def test_micro_batches_give_the_same_losses(size, make_cfg, losses):
    whole = make_cfg('stream')
    pieces = make_cfg('stream', **{'model.micro_batch_size': size})
    for cfg in (whole, pieces):
        train(cfg)
    assert len(losses(whole)) == 10
    assert losses(pieces) == pytest.approx(losses(whole), abs=1e-5)


def test_data_workers_do_not_change_the_samples(make_cfg, losses):
    runs = [
        make_cfg('sampler', **{'train_dataloader.num_workers': workers})
        for workers in (0, 2)
    ]
    for cfg in runs:
        train(cfg)
    assert losses(runs[0]) == losses(runs[1])
    assert len(set(losses(runs[0]))) == 10


def test_data_smaller_than_the_batch_trains(make_cfg, losses):
    """Upstream's loader was empty then (MiniGPT-4 issue 342)."""
    cfg = make_cfg(
        'sampler', **{'train_dataloader.dataset.limit': 2, 'max_iters': 3}
    )
    cfg.global_batch_size = 12
    train(cfg)
    assert len(losses(cfg)) == 3


@KINDS
def test_unreadable_images_are_skipped_and_counted(
    kind, make_cfg, stream_data, pair_data, write_shard, losses, written
):
    """With a batch of one, some batches are empty."""
    if kind == 'stream':
        texts = [dict(jpg=b'broken', txt=b'x'), 'the red circle'] * 3
        for path in stream_data.glob('*/*.tar'):
            write_shard(path, texts)
    else:
        for i in range(0, 5, 2):
            (pair_data / f'image/{i}.jpg').write_bytes(b'broken')
    cfg = make_cfg(kind, global_batch_size=1, max_iters=10)
    runner = train(cfg)
    empty = sum(loss == 0 for loss in losses(cfg))
    assert 3 <= empty <= 7
    assert runner.train_loop.counts['skipped'] == empty
    assert f'{empty} samples were skipped' in written(cfg)
    assert 'cannot be read as an image' in written(cfg)
    assert 'read ahead: sample: image cannot be read: ' in written(cfg)


def test_truncated_answers_are_counted(make_cfg, written):
    cfg = make_cfg('sampler', **{'model.max_text_length': 3})
    cfg.default_hooks.sanity.interval = 1
    runner = train(cfg)
    assert runner.train_loop.counts['truncated'] == 40
    text = written(cfg)
    assert '40 answers were cut at max_text_length' in text
    assert 'truncated: 36' in text  # of nine batches, in the tenth line


def test_validation_runs_at_its_interval_and_at_the_end(make_cfg):
    from mmengine.evaluator import BaseMetric
    from mmengine.registry import METRICS

    seen = []

    @METRICS.register_module(force=True)
    class Answered(BaseMetric):
        def process(self, data_batch, data_samples):
            self.results += [s['pred_caption'] for s in data_samples]

        def compute_metrics(self, results):
            seen.append(len(results))
            return dict(answers=len(results))

    cfg = make_cfg('sampler', max_iters=5)
    cfg.val_dataloader = dict(
        batch_size=3,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=False),
        dataset=dict(
            cfg.train_dataloader.dataset.to_dict(), keep_answers=False
        ),
    )
    cfg.val_cfg, cfg.val_evaluator = dict(), dict(type='Answered')
    cfg.train_cfg.val_interval = 2
    runner = train(cfg)
    assert seen == [5, 5, 5]  # after 2, 4 and at the end
    assert runner.model.training and not runner.model.backbone.training
    METRICS.module_dict.pop('Answered')


def test_an_unreadable_test_batch_is_skipped(make_cfg, tmp_path, written):
    """A whole batch of broken images does not end an evaluation."""
    cfg = make_cfg('sampler', max_iters=1)
    data = Path(cfg.train_dataloader.dataset.data_root)
    for name in ('0', '1'):
        (data / f'image/{name}.jpg').write_bytes(b'broken')
    cfg.test_dataloader.update(batch_size=2, num_workers=0)
    cfg.test_dataloader.dataset.update(
        ann_file='filter_cap.json', data_root=str(data)
    )
    cfg.test_dataloader.dataset.pipeline[0].size = 28
    cfg.test_dataloader.dataset.pipeline[1]['keys'] = ()
    seen = []

    class Count(BaseMetric):
        def process(self, data_batch, data_samples):
            seen.extend(s['id'] for s in data_samples)
            self.results += data_samples

        def compute_metrics(self, results):
            return dict(number=len(results))

    cfg.test_evaluator = [Count()]
    drop_training(cfg)
    build_runner(cfg).test()
    assert seen == ['2', '3', '4']
    assert '2 samples could not be read or are too long' in written(cfg)
