# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Hooks: sanity checks, losses, captions, throughput, scored records."""

import errno
import json
import math
import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from minigpt4.engine import SampleCaptionsHook, SanityHook
from minigpt4.engine.config import build_runner, latest_checkpoint
from minigpt4.engine.hooks import ScoredRecordsHook
from minigpt4.utils.atomic import write_atomically

SANE = dict(interval=1, patience=3)


def stopped(runner):
    with pytest.raises(RuntimeError) as error:
        runner.train()
    message = str(error.value)
    assert '\n' not in message and message.endswith('.')
    return message


def with_sanity(cfg):
    cfg.default_hooks.sanity.update(SANE)
    return build_runner(cfg)


def test_nan_stops_the_run_before_it_is_saved(make_cfg):
    cfg = make_cfg('stream', **{'default_hooks.checkpoint.interval': 1})
    runner = with_sanity(cfg)

    class Poison(SanityHook):
        def before_train_iter(self, runner, batch_idx, data_batch=None):
            if batch_idx == 2:
                runner.model.head.layers[0].bias.data.fill_(math.nan)

    runner.register_hook(Poison())
    message = stopped(runner)
    assert message.startswith('the loss is nan at iteration 3')
    assert latest_checkpoint(cfg.work_dir).endswith('iter_2.pth')
    saved = torch.load(latest_checkpoint(cfg.work_dir), weights_only=True)
    assert saved['state_dict']['head.layers.0.bias'].isfinite().all()


def test_loss_of_a_guessing_llm_stops_the_run(make_cfg):
    """A flat ln(32000) meant unmerged Vicuna weights (issue 67)."""
    runner = with_sanity(make_cfg('stream'))
    runner.model.decoder.llm.get_output_embeddings().weight.data.zero_()
    vocab_size = runner.model.decoder.vocab_size
    message = stopped(runner)
    assert f'ln({vocab_size}) = {math.log(vocab_size):.3f}' in message
    assert 'for 3 iterations' in message
    assert runner.iter == 2


def test_patience_counts_consecutive_checks(make_cfg):
    runner = with_sanity(make_cfg('stream', max_iters=6))
    head = runner.model.decoder.llm.get_output_embeddings()
    kept = head.weight.data.clone()

    class Flicker(SanityHook):
        def before_train_iter(self, runner, batch_idx, data_batch=None):
            head.weight.data.copy_(kept * (batch_idx % 3 == 2))

    runner.register_hook(Flicker())
    runner.train()
    assert runner.iter == 6


def test_unreadable_data_stops_the_run(make_cfg, stream_data, write_shard):
    """Shards without captions warned indefinitely (MiniGPT-4 issue 354)."""
    for path in stream_data.glob('*/*.tar'):
        write_shard(path, [dict(jpg=b'no json')] * 6)
    runner = with_sanity(make_cfg('stream'))
    message = stopped(runner)
    assert 'not one sample could be read' in message
    assert '12 were skipped' in message


def test_short_run_without_a_usable_sample_is_an_error(
    make_cfg, stream_data, write_shard
):
    """It ends before the checks that stop a longer run."""
    for path in stream_data.glob('*/*.tar'):
        write_shard(path, [dict(jpg=b'broken', txt=b'x')] * 6)
    cfg = make_cfg('stream', max_iters=2)
    message = stopped(build_runner(cfg))
    assert 'not one sample of the run could be used, 8 were' in message
    assert latest_checkpoint(cfg.work_dir) is None


def test_no_hook_reads_a_tensor_between_logs(make_cfg):
    """A tensor without a value cannot be read: a read would be an error."""
    cfg = make_cfg(
        'sampler',
        **{
            'default_hooks.logger.interval': 5,
            'default_hooks.checkpoint.interval': 100,
            'max_iters': 10,
        },
    )
    cfg.default_hooks.sanity.interval = 5
    runner = build_runner(cfg)
    train_step = runner.model.train_step
    nothing = torch.zeros((), device='meta')
    seen = []

    def stepped(data, optim_wrapper):
        outputs = train_step(data, optim_wrapper)
        seen.append(len(seen) + 1)
        return dict(loss=nothing) if len(seen) == 6 else outputs

    runner.model.train_step = stepped
    with pytest.raises(RuntimeError, match='meta'):
        runner.train()
    assert seen[-1] == 10  # and not 6, but where the loss is logged


@pytest.mark.parametrize('stop, interval', [(9, 50), (10, 50), (10, 3)])
def test_deferred_losses_equal_those_of_mmengine(
    make_cfg, scalars, stop, interval
):
    """In the log, and in a checkpoint between two logs."""
    logs, kept = [], []
    for hook in (
        dict(type='minigpt4.DeferredLossHook', interval=interval),
        dict(type='RuntimeInfoHook'),
    ):
        cfg = make_cfg(
            'sampler',
            **{
                'default_hooks.runtime_info': hook,
                'default_hooks.logger.interval': 5,
                'default_hooks.checkpoint.interval': 3,
                'log_processor.window_size': 4,
                'max_iters': stop,
            },
        )
        build_runner(cfg).train()
        logs.append(
            [
                {k: entry[k] for k in ('step', 'loss', 'lr')}
                for entry in scalars(cfg).values()
            ]
        )
        saved = torch.load(f'{cfg.work_dir}/iter_9.pth', weights_only=False)[
            'message_hub'
        ]['log_scalars']['train/loss']
        kept.append(saved.data[0].tolist())
    assert logs[0] == logs[1]
    # and where the logger takes the small data for an epoch
    assert [entry['step'] for entry in logs[0]] == [2, 5, 10][: 1 + stop // 5]
    assert kept[0] == kept[1] and len(kept[0]) == 9


def caption_hook(cfg, **options):
    data = dict(cfg.train_dataloader.dataset.to_dict(), limit=3)
    return dict(
        type=SampleCaptionsHook,
        dataset=dict(data, keep_answers=False),
        num_samples=2,
        interval=4,
        max_new_tokens=3,
        **options,
    )


def test_sample_captions_are_logged_and_drawn(make_cfg, written, losses):
    cfg, plain = (make_cfg('sampler', max_iters=5) for _ in range(2))
    cfg.custom_hooks.append(caption_hook(cfg))
    for each in (cfg, plain):
        runner = build_runner(each)
        runner.train()
        assert runner.model.training and not runner.model.neck.training
    pictures = Path(cfg.work_dir).glob('*/vis_data/vis_image/*')
    assert sorted(p.name for p in pictures) == [
        f'caption_{i}_{step}.png' for i in (0, 1) for step in (4, 5)
    ]
    text = written(cfg)
    assert 'captions at iteration 4:\n  0: ' in text
    assert 'captions at iteration 5:' in text  # the last
    assert losses(cfg) == losses(plain)  # and change nothing


def test_sample_captions_without_a_readable_image(make_cfg, pair_data):
    cfg = make_cfg('sampler', max_iters=2)
    hook = caption_hook(cfg)
    hook['dataset']['image_folder'] = 'nowhere'
    cfg.custom_hooks.append(hook)
    build_runner(cfg).train()


def test_sample_captions_of_the_training_data_with_other_settings(
    make_cfg, written
):
    cfg = make_cfg('sampler', max_iters=1)
    cfg.custom_hooks.append(
        dict(
            type=SampleCaptionsHook,
            dataset=dict(limit=1),
            num_samples=2,
            max_new_tokens=3,
        )
    )
    build_runner(cfg).train()
    text = written(cfg)
    assert 'captions at iteration 1:\n  0: ' in text
    assert '\n  1: ' not in text


def test_throughput_is_logged(make_cfg, scalars):
    cfg = make_cfg('sampler', max_iters=6)
    cfg.default_hooks.throughput.interval = 3
    runner = build_runner(cfg)

    class Slow(SanityHook):
        def before_train_iter(self, runner, batch_idx, data_batch=None):
            time.sleep(0.02)
            assert data_batch['counts']['samples'] == 4

    runner.register_hook(Slow())
    runner.train()
    logged = scalars(cfg)
    assert 'samples_per_s' not in logged[2]
    for step in (3, 6):
        rate = logged[step]['samples_per_s']
        assert 0.1 < rate < 4 / 0.02
        # each row: BOS, question, 3 image tokens, answer
        assert logged[step]['tokens_per_s'] > 10 * rate
    assert logged[3]['samples_per_s'] == logged[5]['samples_per_s']


@pytest.fixture
def full_disk(monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fill():
        monkeypatch.setattr(os, 'fsync', full)

    return fill


def test_full_disk_leaves_the_older_checkpoint(make_cfg, full_disk):
    cfg = make_cfg('stream', **{'default_hooks.checkpoint.interval': 2})
    runner = build_runner(cfg)

    class Fill(SanityHook):
        def before_train_iter(self, runner, batch_idx, data_batch=None):
            if batch_idx == 3:
                full_disk()

    runner.register_hook(Fill())
    with pytest.raises(OSError, match='files saved earlier are complete') as e:
        runner.train()
    assert e.value.errno == errno.ENOSPC and 'iter_4.pth' in str(e.value)
    folder = Path(cfg.work_dir)
    assert [p.name for p in folder.glob('*.pth')] == ['iter_2.pth']
    assert not list(folder.rglob('*.part')) + list(folder.rglob('.*.part'))
    assert torch.load(folder / 'iter_2.pth', weights_only=True)['meta']


def test_writes_are_atomic(tmp_path, full_disk):
    path = tmp_path / 'new/file'
    write_atomically(path, b'one')
    write_atomically(path, b'two')
    assert path.read_bytes() == b'two'
    full_disk()
    with pytest.raises(OSError, match='No space left'):
        write_atomically(path, b'three')
    assert path.read_bytes() == b'two'
    assert [p.name for p in path.parent.iterdir()] == ['file']
    with pytest.raises(OSError, match='is a folder that is not empty'):
        write_atomically(path.parent, b'four')


def test_settings_of_the_captioned_data_change_the_training_data(
    make_cfg, written
):
    """Like ``default_hooks.sample_captions.dataset.data_root=DIR``."""
    cfg = make_cfg('sampler', max_iters=1)
    cfg.custom_hooks.append(
        dict(type=SampleCaptionsHook, dataset=dict(limit=1), max_new_tokens=2)
    )
    build_runner(cfg).train()
    text = written(cfg)
    captions = text[text.index('captions at iteration 1:') :].splitlines()
    assert captions[1].startswith('  0: ') and captions[2][:3] != '  1'


def test_a_sample_of_any_name_is_drawn(make_cfg, pair_data):
    """mmengine #1681: a slash in the name, or 300 letters."""
    path = pair_data / 'filter_cap.json'
    names = ['coco/train/1', 'x' * 300, 'x' * 301, '../..', 'plain']
    records = [
        dict(image=f'{i}.jpg', id=name, question='q', answer='a')
        for i, name in enumerate(names)
    ]
    path.write_text(json.dumps(records))
    cfg = make_cfg('sampler', max_iters=1)
    cfg.custom_hooks.append(
        dict(type=SampleCaptionsHook, num_samples=5, max_new_tokens=2)
    )
    build_runner(cfg).train()
    folder = next(Path(cfg.work_dir).glob('*/vis_data/vis_image'))
    found = [path.name for path in folder.iterdir()]
    assert len(found) == 5 and 'caption_plain_1.png' in found
    assert max(map(len, found)) < 120
    assert any(name.startswith('caption_coco_train_1-') for name in found)


def test_a_sample_too_long_for_the_llm_ends_no_run(
    make_cfg, pair_data, written
):
    path = pair_data / 'filter_cap.json'
    record = dict(image='0.jpg', question='q', answer='a')
    long = dict(record, id='long-one', question='shape ' * 3000)
    path.write_text(json.dumps([record, long, record, record]))
    cfg = make_cfg('sampler', max_iters=2)
    cfg.train_dataloader.sampler.shuffle = False
    cfg.custom_hooks.append(
        dict(type=SampleCaptionsHook, num_samples=3, max_new_tokens=2)
    )
    runner = build_runner(cfg)
    runner.train()
    assert runner.train_loop.counts['skipped'] == 2
    text = written(cfg)
    assert text.count('skipped: sample long-one has ') == 2  # each once
    assert 'fit into the context of the LLM' in text
    captions = text[text.index('captions at iteration 2:') :].splitlines()
    assert captions[1].startswith('  0: ') and captions[2].startswith('  2: ')


def counted(batches, data):
    """The numbers of a test with batches, each with those it answers."""
    runner = SimpleNamespace(test_dataloader=SimpleNamespace(dataset=data))
    hook, scores = ScoredRecordsHook(), {'x': 1.0}
    hook.before_test_epoch(runner)
    for number, (batch, outputs) in enumerate(batches):
        hook.after_test_iter(runner, number, batch, outputs)
    hook.after_test_epoch(runner, scores)
    assert scores.pop('x') == 1.0
    return tuple(scores[f'{name}_records'] for name in ('scored', 'skipped'))


def test_scored_and_skipped_records_are_counted():
    data = 'abc'
    assert counted([(['a', 'b'], 'ab'), (['c'], 'c')], data) == (3, 0)
    assert counted([(['a', None], 'a'), ([None], '')], data) == (1, 2)
    # a collated batch has no number of its records
    assert counted([({'inputs': 'ab'}, 'a'), ({}, None)], data) == (1, 2)


def test_a_record_that_two_ranks_read_hides_no_skipped_one():
    batches = [(['a', None], 'a'), (['c', 'a'], 'ca')]
    assert counted(batches, 'abc') == (3, 1)


def test_omitted_records_count_as_skipped():
    class Data(list):
        num_omitted = 4

    assert counted([(['a'], 'a')], Data('a')) == (1, 4)
