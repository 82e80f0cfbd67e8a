# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Checkpoints: no code is executed, damage and mismatches are errors."""

import copy
import os
import random
from pathlib import Path

import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader
from safetensors.torch import save_file

from minigpt4.engine.config import build_runner
from minigpt4.engine.resume_checks import (
    latest_checkpoint,
    latest_resumable,
    resume_state,
)
from minigpt4.weights.checkpoint_files import CheckpointError, read_checkpoint
from minigpt4.weights.checksum import CHECKSUM, add_checksum, digest
from minigpt4.weights.read import open_tensors

EVIL = 'import pathlib; pathlib.Path({!r}).touch()\n'


@pytest.fixture
def run_cfg(make_cfg):
    """A config whose run has saved iter_2.pth and iter_4.pth."""
    cfg = make_cfg('stream', max_iters=4)
    build_runner(cfg).train()
    cfg.max_iters = 5
    cfg.experiment_name += '-resumed'
    return cfg


def newest(cfg) -> Path:
    return Path(cfg.work_dir) / 'iter_4.pth'


def edit(path, change, checksum=True):
    """Change a saved checkpoint, as someone who knows of checksums would."""
    checkpoint = torch.load(path, weights_only=False)
    change(checkpoint)
    if checksum:
        add_checksum(checkpoint)
    else:
        checkpoint.pop(CHECKSUM)
    torch.save(checkpoint, path)


def resumed(cfg):
    cfg = copy.deepcopy(cfg)
    cfg.resume, cfg.load_from = True, str(newest(cfg))
    runner = build_runner(cfg)
    runner.train()
    return runner


def refusal(cfg) -> str:
    with pytest.raises(ValueError) as error:
        resumed(cfg)
    assert str(newest(cfg)) in str(error.value)
    assert '\n' not in str(error.value)
    return str(error.value)


def test_no_text_of_a_checkpoint_is_executed(run_cfg, tmp_path):
    flag = tmp_path / 'run'
    text = EVIL.format(str(flag))

    def poison(checkpoint):
        checkpoint['meta'].update(config=text, cfg=text, dataset_meta=text)
        checkpoint['message_hub']['runtime_info']['cfg'] = text

    edit(newest(run_cfg), poison)
    assert resumed(run_cfg).iter == 5
    run_cfg.resume, run_cfg.load_from = True, None
    run_cfg.experiment_name += '-auto'
    assert build_runner(run_cfg).train() is not None
    run_cfg.resume, run_cfg.load_from = False, str(newest(run_cfg))
    run_cfg.experiment_name += '-loaded'
    build_runner(run_cfg).train()
    assert not flag.exists()


def test_a_checkpoint_names_no_files_to_delete(run_cfg, tmp_path):
    """mmengine removes the files of ``keep_ckpt_ids`` and ``best_ckpt``."""
    (tmp_path / 'precious.pth').touch()

    def poison(checkpoint):
        info = checkpoint['message_hub']['runtime_info']
        info.update(
            keep_ckpt_ids=['../precious', 1, 2, 3, 4, 5],
            best_ckpt=str(tmp_path / 'precious.pth'),
        )
        keys = checkpoint['message_hub']['resumed_keys']
        keys.update(keep_ckpt_ids=True, best_ckpt=True)

    edit(newest(run_cfg), poison)
    run_cfg.default_hooks.checkpoint.filename_tmpl = '{}.pth'
    runner = resumed(run_cfg)
    assert (tmp_path / 'precious.pth').exists()
    assert 'best_ckpt' not in runner.message_hub.runtime_info


def test_only_numbers_of_a_schedule_are_restored(run_cfg):
    def poison(checkpoint):
        checkpoint['param_schedulers'][0].update(
            _get_value='text', param_name='weight_decay', unknown=1
        )

    edit(newest(run_cfg), poison)
    scheduler = resumed(run_cfg).param_schedulers[0]
    assert callable(scheduler._get_value)
    assert scheduler.param_name == 'lr' and not hasattr(scheduler, 'unknown')
    assert scheduler.last_step == 5


def test_methods_in_a_history_are_ignored(tmp_path):
    history = HistoryBuffer([1.0, 3.0], [1, 1])
    known = dict(HistoryBuffer._statistics_methods)
    history._statistics_methods = dict(known, mean=HistoryBuffer.min)
    torch.save(dict(a=history), tmp_path / 'a.pth')
    loaded = torch.load(tmp_path / 'a.pth', weights_only=True)['a']
    assert type(loaded) is HistoryBuffer
    assert loaded.statistics('mean') == 2
    assert HistoryBuffer._statistics_methods == known


def test_every_flipped_bit_is_found_or_harmless(run_cfg):
    path = newest(run_cfg)
    good = path.read_bytes()
    whole = digest(torch.load(path, weights_only=True))
    draw = random.Random(0)
    for offset in [draw.randrange(len(good)) for _ in range(150)]:
        bad = bytearray(good)
        bad[offset] ^= 1 << draw.randrange(8)
        path.write_bytes(bad)
        try:
            assert digest(read_checkpoint(path)) == whole, offset
        except CheckpointError as error:
            assert str(path) in str(error)


def test_changed_weights_are_found_without_a_zip(run_cfg):
    """The CRC of a file that was written again is right."""
    path = newest(run_cfg)
    checkpoint = torch.load(path, weights_only=True)
    bias = checkpoint['state_dict']['head.layers.0.bias']
    checkpoint['state_dict']['head.layers.0.bias'] = bias + 1
    torch.save(checkpoint, path)
    for reader in (
        read_checkpoint,
        open_tensors,  # minigpt4 convert
        CheckpointLoader.load_checkpoint,  # get_model
    ):
        with pytest.raises(ValueError, match='differs from its checksum'):
            reader(str(path))
    checkpoint['state_dict']['head.layers.0.bias'] = bias
    checkpoint['meta']['iter'] = 3
    torch.save(checkpoint, path)
    assert 'head.layers.0.bias' in open_tensors(path)  # the weights are right
    with pytest.raises(CheckpointError, match='differs from its checksum'):
        read_checkpoint(path)


def test_checkpoints_without_a_checksum_are_resumed(run_cfg):
    """Version 0.1 stored none."""
    edit(newest(run_cfg), lambda checkpoint: None, checksum=False)
    assert resumed(run_cfg).iter == 5


DAMAGES = {
    'truncated': (lambda data: data[: len(data) // 2], 'truncated'),
    'empty': (lambda data: b'', 'it is empty'),
    'zeros': (lambda data: bytes(len(data)), 'begins with zeros'),
    'web page': (lambda data: b'<!doctype html><p>', 'it is a web page'),
    'LFS': (lambda data: b'version https://git-lfs', 'Git LFS pointer'),
    'foreign': (lambda data: b'\x80\x02K\x01.', 'read as weights|holds'),
}


@pytest.mark.parametrize('damage, reason', DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_newest_checkpoint_is_reported_and_skipped(
    damage, reason, run_cfg, log, tmp_path
):
    data = newest(run_cfg).read_bytes()
    newest(run_cfg).write_bytes(damage(data))
    found = latest_resumable(run_cfg.work_dir)
    assert found.endswith('iter_2.pth')
    warnings = '\n'.join(log)
    assert f'not resumed: {newest(run_cfg)}' in warnings
    assert f'resuming from {found} instead' in warnings
    Path(found).unlink()
    with pytest.raises(CheckpointError, match=f'none of the 1 .*({reason})'):
        latest_resumable(run_cfg.work_dir)
    newest(run_cfg).unlink()
    assert latest_resumable(run_cfg.work_dir) is None


def nothing_finite(checkpoint):
    for tensor in checkpoint['state_dict'].values():
        if tensor.is_floating_point():
            tensor.fill_(float('nan'))


CHANGES = {
    'no optimizer': (lambda c: c.pop('optimizer'), 'no optimizer state'),
    'no meta': (lambda c: c.pop('meta'), 'no meta entry'),
    'no weights': (lambda c: c.pop('state_dict'), 'no weights'),
    'negative': (lambda c: c['meta'].update(iter=-5), 'iteration is -5'),
    'text': (lambda c: c['meta'].update(iter='x'), "iteration is 'x'"),
    'flag': (lambda c: c['meta'].update(iter=True), 'iteration is True'),
    'nan': (nothing_finite, 'not finite'),
    'seed text': (lambda c: c['meta'].update(seed='x'), "seed is 'x'"),
    'positions': (lambda c: c['data'].update(positions=3), 'positions'),
    'place': (
        lambda c: c['data'].update(positions=[{'a': (0, -1)}]),
        'positions',
    ),
    'schedule': (lambda c: c.update(param_schedulers=3), 'param_schedulers'),
}


def test_checkpoints_that_cannot_be_resumed_are_skipped(run_cfg, log):
    good = newest(run_cfg).read_bytes()
    for name, (change, reason) in CHANGES.items():
        newest(run_cfg).write_bytes(good)
        edit(newest(run_cfg), change)
        checkpoint = read_checkpoint(newest(run_cfg))
        with pytest.raises(CheckpointError, match=reason):
            resume_state(checkpoint, newest(run_cfg))
        assert latest_resumable(run_cfg.work_dir).endswith('iter_2.pth'), name
    assert len([line for line in log if 'not resumed' in line]) == len(CHANGES)
    with pytest.raises(CheckpointError) as error:
        resumed(run_cfg)
    assert 'iter_4.pth cannot be resumed' in str(error.value)


def wrong_shape(checkpoint):
    for state in checkpoint['optimizer']['state'].values():
        state['exp_avg'] = torch.zeros(3)


def test_checkpoints_of_another_run_are_errors(run_cfg):
    good = newest(run_cfg).read_bytes()
    weight = 'head.layers.0.weight'
    for change, reason in (
        (wrong_shape, 'exp_avg of parameter 0 is (3,)'),
        (lambda c: c['meta'].update(seed=7), 'set randomness.seed=7'),
        (
            lambda c: c['data'].update(positions=[{'zzz': (0, 1)}]),
            "names the sources ['zzz'], the config has ['a', 'b']",
        ),
        (
            lambda c: c['data'].update(positions=[{'a': (0, 10**9)}] * 1),
            'has 6 samples, but 1000000000',
        ),
        (
            lambda c: c['state_dict'].update({weight: torch.zeros(2, 2)}),
            'is (2, 2) in the checkpoint',
        ),
        (
            lambda c: c['optimizer']['param_groups'].pop(),
            'groups of [1] parameters',
        ),
        (
            lambda c: c['optimizer']['param_groups'][0].update(lr='high'),
            "setting lr is 'high'",
        ),
        (lambda c: c['random'].pop('numpy'), 'numpy'),
        (
            lambda c: c['param_schedulers'][0].update(last_step='x'),
            'no valid last_step',
        ),
    ):
        newest(run_cfg).write_bytes(good)
        edit(newest(run_cfg), change)
        message = refusal(run_cfg)
        assert reason in message
        assert message.count(str(newest(run_cfg))) == 1


def test_files_that_are_no_training_checkpoint_are_named(tmp_path):
    """mmcv #1671, mmocr #128: KeyError: epoch, EOFError."""
    head = {'head.layers.0.weight': torch.zeros(2, 2)}
    torch.save(dict(state_dict=head, meta={}), tmp_path / 'head.pth')
    torch.save(head, tmp_path / 'bare.pth')
    save_file(head, tmp_path / 'head.safetensors')
    (tmp_path / 'empty.pth').touch()
    (tmp_path / 'folder').mkdir()
    for name, reason in (
        ('head.pth', 'its iteration is None.* use .* load_from=FILE'),
        ('bare.pth', 'no meta entry.* use .* load_from=FILE'),
        ('head.safetensors', 'no meta entry.* use .* load_from=FILE'),
        ('empty.pth', 'it is empty'),
        ('folder', 'is a folder'),
    ):
        path = tmp_path / name
        with pytest.raises(ValueError, match=f'{path}.*{reason}'):
            resume_state(read_checkpoint(path), path)


def test_files_that_block_are_refused(tmp_path):
    os.mkfifo(tmp_path / 'iter_4.pth')
    with pytest.raises(CheckpointError, match='is a FIFO'):
        read_checkpoint(tmp_path / 'iter_4.pth')
    with pytest.raises(CheckpointError, match='is a FIFO'):
        latest_resumable(tmp_path)
    with pytest.raises(CheckpointError, match='a character device'):
        read_checkpoint('/dev/zero')
    assert latest_checkpoint(tmp_path).endswith('iter_4.pth')


def test_digest_distinguishes_types_shapes_and_values():
    zeros = torch.zeros(2, 3)
    values = [
        zeros,
        zeros.T.contiguous(),
        zeros.half(),
        zeros.numpy(),
        [0, 1],
        [[0], 1],
        dict(a=1),
        dict(a=1.0),
        dict(a=True),
        dict(a='1'),
        'ab',
        ['a', 'b'],
        b'ab',
        None,
    ]
    assert len({digest(value) for value in values}) == len(values)
    assert digest(dict(a=1, b=2)) == digest(dict(b=2, a=1))
    assert digest(zeros.T) == digest(zeros.T.contiguous())
    with pytest.raises(TypeError, match='holds a object'):
        digest([object()])
