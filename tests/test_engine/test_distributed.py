# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Two ranks give the same results as one process."""

import json
import os
import subprocess
import sys
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest
import torch
from tests.free_port import free_port

from minigpt4.engine.config import (
    build_runner,
    drop_training,
    latest_checkpoint,
)

ROOT = Path(__file__).parents[2]
METRIC = '''
from mmengine.evaluator import BaseMetric


class Answers(BaseMetric):
    """Gives the answers themselves."""

    def process(self, data_batch, data_samples):
        self.results += [(s['id'], s['pred_caption']) for s in data_samples]

    def compute_metrics(self, results):
        return dict(ids=[i for i, _ in results], said=[a for _, a in results])
'''


WAIT = '''
import os
import time
from mmengine.hooks import Hook


class WaitForData(Hook):
    """After a step, waits until this rank has read some bytes of shards.

    The workers may still read the batches that they read ahead.
    """

    def __init__(self, step, folder, size):
        self.step, self.folder, self.size = step, folder, size

    def after_train_iter(self, runner, batch_idx, **kwargs):
        file = os.path.join(self.folder, f'read-{os.environ["RANK"]}')
        end = time.monotonic() + 300
        if batch_idx + 1 == self.step:
            while os.path.getsize(file) < self.size:
                if time.monotonic() > end:
                    return
                time.sleep(0.02)
'''


def run_script(tool, *arguments, cwd):
    """Run a shell script of tools/ on the CPU."""
    port = free_port()
    path = f'{Path(sys.executable).parent}:{os.environ["PATH"]}'
    done = subprocess.run(
        ['bash', ROOT / f'tools/{tool}', *arguments],
        cwd=cwd,
        env={
            **os.environ,
            'PATH': path,
            'PORT': str(port),
            'PYTHONPATH': f'{cwd}{os.pathsep}{ROOT / "projects"}',
            'OMP_NUM_THREADS': '1',
            'CUDA_VISIBLE_DEVICES': '',
        },
        capture_output=True,
        text=True,
        timeout=1500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    ('kind', 'options'),
    [
        ('stream', {}),
        ('sampler', {}),
        pytest.param(
            'stream',
            {'model.decoder.shard': True},
            marks=pytest.mark.skipif(
                not hasattr(torch.cpu.Stream, 'record_event'),
                reason='torch 2.6 cannot shard on CPUs',
            ),
        ),
    ],
    ids=['stream', 'sampler', 'sharded'],
)
def test_two_ranks_train_like_one(
    kind, options, make_cfg, losses, tmp_path, run_tool
):
    alone = make_cfg(kind, max_iters=4)
    build_runner(alone).train()
    two = make_cfg(kind, max_iters=4, **options)
    two.dump(tmp_path / 'cfg.py')
    if options:  # once by the script that users call
        text = run_script(
            'dist_train.sh', tmp_path / 'cfg.py', '2', cwd=tmp_path
        )
    else:
        text = run_tool('train.py', tmp_path / 'cfg.py', cwd=tmp_path, ranks=2)
    assert 'global batch 4 = 2 ranks x 2 samples' in text
    assert losses(two) == pytest.approx(losses(alone), abs=1e-5)
    assert len(set(losses(two))) == 4
    assert latest_checkpoint(two.work_dir).endswith('iter_4.pth')


def sharded_cfg(make_cfg, write_shard, folder, first='', **options):
    """A run on 32 equal shards, whose bytes are counted for each rank.

    ``first`` is a command that runs before a shard is read.
    """
    colours = ('red', 'blue', 'green')
    for i in range(32):
        captions = [f'a {colours[(i + j) % 3]} {i} {j}' for j in range(6)]
        write_shard(folder / f'shards/{i:05d}.tar', captions)
    cfg = make_cfg(
        'stream',
        **{
            'global_batch_size': 16,
            'train_dataloader.num_workers': 2,
            'train_dataloader.dataset.streams': None,
            **options,
        },
    )
    command = f'pipe:{first}tee -a {folder}/read-$RANK < {folder}/shards'
    source = dict(name='a', shards=f'{command}/{{00000..00031}}.tar', weight=1)
    cfg.train_dataloader.dataset.sources = [source]
    # a rate that does not depend on the length of the run
    cfg.param_scheduler = [
        dict(type='ConstantLR', factor=1.0, by_epoch=False, end=10**6)
    ]
    return cfg


@pytest.mark.parametrize('ranks', [2, pytest.param(4, marks=pytest.mark.slow)])
def test_each_rank_reads_its_part_of_the_shards(
    ranks, make_cfg, write_shard, tmp_path, run_tool, written, monkeypatch
):
    # 11 of the 12 batches of a pass, with those that are read ahead
    cfg = sharded_cfg(make_cfg, write_shard, tmp_path, max_iters=7)
    size = sum(path.stat().st_size for path in tmp_path.glob('shards/*'))
    (tmp_path / 'waiting.py').write_text(WAIT)
    monkeypatch.syspath_prepend(str(tmp_path))
    cfg.custom_hooks.append(
        dict(
            type='waiting.WaitForData',
            step=7,
            folder=str(tmp_path),
            size=0.9 * size / ranks,
        )
    )
    cfg.dump(tmp_path / 'cfg.py')
    run_tool('train.py', tmp_path / 'cfg.py', cwd=tmp_path, ranks=ranks)
    read = [
        (tmp_path / f'read-{rank}').stat().st_size for rank in range(ranks)
    ]
    assert max(read) <= 1.05 * size / ranks
    assert sum(read) >= 0.9 * size
    assert 'bytes of shards were read in this run' in written(cfg)


@pytest.mark.slow
def test_run_is_resumed_on_other_numbers_of_ranks(
    make_cfg, write_shard, losses, tmp_path, run_tool
):
    """Four ranks, then two, then one, then three that share streams."""
    whole = sharded_cfg(make_cfg, write_shard, tmp_path, global_batch_size=12)
    whole.dump(tmp_path / 'whole.py')
    run_tool('train.py', tmp_path / 'whole.py', cwd=tmp_path, ranks=1)
    cut = sharded_cfg(make_cfg, write_shard, tmp_path, global_batch_size=12)
    for ranks, end in ((4, 2), (2, 4), (1, 6), (3, 10)):
        cut.max_iters = end
        cut.experiment_name += f'-{ranks}'
        cut.dump(tmp_path / 'cut.py')
        run_tool(
            'train.py',
            *(tmp_path / 'cut.py', '--resume'),
            cwd=tmp_path,
            ranks=ranks,
        )
    assert losses(cut) == pytest.approx(losses(whole), abs=1e-5)
    assert len(set(losses(whole))) == 10


@pytest.mark.slow
def test_run_whose_rank_was_killed_is_resumed_on_more_ranks(
    make_cfg, write_shard, losses, tmp_path, run_tool
):
    workers = {'train_dataloader.num_workers': 0}
    whole = sharded_cfg(make_cfg, write_shard, tmp_path, **workers)
    whole.dump(tmp_path / 'whole.py')
    run_tool('train.py', tmp_path / 'whole.py', cwd=tmp_path, ranks=1)
    # rank 1 is killed when it opens the fifth of its shards, in step 4
    kill = (
        f'[ $RANK = 1 ] && [ $(wc -c < {tmp_path}/read-1) -ge 100000 ] && '
        f'mkdir {tmp_path}/killed && kill -9 $PPID; '
    )
    cut = sharded_cfg(make_cfg, write_shard, tmp_path, kill, **workers)
    cut.dump(tmp_path / 'cut.py')
    (tmp_path / 'read-1').touch()
    arguments = 'train.py', tmp_path / 'cut.py', '--resume'
    with pytest.raises(BrokenProcessPool):
        run_tool(*arguments, cwd=tmp_path, ranks=2)
    assert latest_checkpoint(cut.work_dir).endswith('iter_2.pth')
    run_tool(*arguments, cwd=tmp_path, ranks=4)
    assert losses(cut) == pytest.approx(losses(whole), abs=1e-5)


def test_two_ranks_evaluate_like_one(
    make_cfg, tmp_path, run_tool, monkeypatch
):
    """Each of five samples is scored once, though each rank reads three."""
    (tmp_path / 'answers.py').write_text(METRIC)
    cfg = make_cfg('sampler', max_iters=1)
    runner = build_runner(cfg)
    runner.train()
    checkpoint = str(tmp_path / 'head.pth')
    runner.save_checkpoint(str(tmp_path), 'head.pth')
    cfg.test_dataloader.update(batch_size=2, num_workers=0)
    cfg.test_dataloader.dataset.update(
        ann_file='filter_cap.json',
        data_root=cfg.train_dataloader.dataset.data_root,
    )
    cfg.test_dataloader.dataset.pipeline = (
        cfg.train_dataloader.dataset.pipeline
    )
    cfg.test_evaluator = dict(type='answers.Answers')
    cfg.dump(tmp_path / 'cfg.py')
    monkeypatch.syspath_prepend(str(tmp_path))
    run_tool(
        'test.py',
        *(tmp_path / 'cfg.py', checkpoint, '--out', tmp_path / 'scores.json'),
        cwd=tmp_path,
        ranks=2,
    )
    two = json.loads((tmp_path / 'scores.json').read_text())
    assert two['ids'] == ['0', '1', '2', '3', '4']
    counts = two.pop('scored_records'), two.pop('skipped_records')
    assert counts == (5, 0)

    drop_training(cfg)
    cfg.load_from = checkpoint
    cfg.experiment_name += '-test'
    try:
        assert build_runner(cfg).test() == two
    finally:
        sys.modules.pop('answers')


@pytest.mark.parametrize(
    'script, before, after',
    [
        ('dist_train.sh', ['a.py', '2'], ['train.py', 'a.py']),
        ('dist_test.sh', ['a.py', 'b.pth', '2'], ['test.py', 'a.py', 'b.pth']),
    ],
)
def test_scripts_pass_their_arguments_to_the_launcher(
    script, before, after, tmp_path, monkeypatch
):
    (tmp_path / 'python').write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / 'python').chmod(0o755)
    monkeypatch.setenv('PATH', f'{tmp_path}:{os.environ["PATH"]}')
    done = subprocess.run(
        ['bash', ROOT / 'tools' / script, *before, '--x', 'y z'],
        capture_output=True,
        text=True,
        check=True,
    )
    launcher, ranks, tool, *others = done.stdout.splitlines()
    assert (Path(launcher).name, ranks) == ('launch.py', '2')
    assert [Path(tool).name, *others] == [
        *after,
        *('--launcher', 'pytorch', '--x', 'y z'),
    ]
