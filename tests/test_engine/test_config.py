# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""What depends on the machine, and the command line."""

import os
import resource
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from minigpt4.engine import config
from minigpt4.engine.ranks import start_ranks

ROOT = Path(__file__).parents[2]


def loader_cfg(total, **dataset):
    return Config(
        dict(
            global_batch_size=total,
            train_dataloader=dict(dataset=dict(type='X', **dataset)),
        )
    )


@pytest.mark.parametrize('ranks, share', [(1, 12), (3, 4), (12, 1)])
def test_global_batch_is_shared_out(ranks, share):
    cfg = loader_cfg(12)
    assert config.set_rank_batch(cfg, ranks) == share
    assert cfg.train_dataloader.batch_size == share
    assert 'batch_size' not in cfg.train_dataloader.dataset
    stream = loader_cfg(12, sources=[])
    assert config.set_rank_batch(stream, ranks) == share
    assert stream.train_dataloader.batch_size is None
    assert stream.train_dataloader.dataset.batch_size == share


@pytest.mark.parametrize('total, ranks, better', [(12, 5, 10), (2, 3, 3)])
def test_uneven_batch_is_refused(total, ranks, better):
    with pytest.raises(
        ValueError, match=f'evenly among {ranks} ranks'
    ) as error:
        config.set_rank_batch(loader_cfg(total), ranks)
    assert str(error.value).endswith(f'a multiple, e.g. {better}.')


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_amp_without_a_gpu_is_refused():
    with pytest.raises(ValueError, match='--amp needs a GPU'):
        config.use_amp(Config(dict(optim_wrapper=dict(type='OptimWrapper'))))


def test_config_and_work_dir():
    path = str(ROOT / 'configs/minigpt4/stage1_nano.py')
    cfg = config.load_config(path)
    assert cfg.work_dir == os.path.join('work_dirs', 'stage1_nano')
    cfg = config.load_config(
        path, 'here', {'max_iters': 3, 'model.micro_batch_size': 2}
    )
    assert (cfg.work_dir, cfg.max_iters) == ('here', 3)
    assert cfg.model.micro_batch_size == 2
    with pytest.raises(FileNotFoundError, match='see configs/minigpt4/'):
        config.load_config('configs/absent.py')


def test_test_config_is_needed():
    cfg = Config.fromfile(ROOT / 'configs/minigpt4/stage1.py')
    with pytest.raises(ValueError, match='has no test_dataloader'):
        config.drop_training(cfg)
    cfg = Config.fromfile(ROOT / 'configs/minigpt4/stage2_nano.py')
    config.drop_training(cfg)
    assert 'train_dataloader' not in cfg and 'custom_hooks' not in cfg


def test_other_launchers_need_gpus():
    if torch.cuda.is_available():
        pytest.skip('there is a GPU')
    with pytest.raises(ValueError, match='needs GPUs'):
        start_ranks(Config(), 'slurm')


def test_train_tool_takes_options_and_resumes(
    make_cfg, losses, tmp_path, run_tool
):
    cfg = make_cfg('stream')
    cfg.dump(tmp_path / 'cfg.py')

    def run(*options):
        return run_tool(
            'train.py',
            *(tmp_path / 'cfg.py', '--work-dir', cfg.work_dir, *options),
            cwd=tmp_path,
        )

    text = run('--resume', '--cfg-options', 'max_iters=3')
    assert f'nothing to resume in {cfg.work_dir}' in text
    assert f'checkpoints and logs are in {cfg.work_dir}' in text
    assert len(losses(cfg)) == 3
    assert config.latest_checkpoint(cfg.work_dir).endswith('iter_3.pth')
    text = run('--resume', '--cfg-options', 'max_iters=4')
    assert 'nothing to resume' not in text
    assert len(losses(cfg)) == 4


@pytest.mark.parametrize(
    ('key', 'value', 'message'),
    [
        ('max_iters', 'abc', 'max_iters is "abc" in .*cfg.py; expected a wh'),
        ('max_iters', 0, 'max_iters is 0 in'),
        ('max_iters', 400.5, 'max_iters is 400.5 in'),
        ('global_batch_size', True, 'global_batch_size is true in'),
        ('train_dataloader.dataset', None, 'train_dataloader has no dataset'),
        ('optim_wrapper.optimizer.lr', 'fast', 'lr is "fast" in .* a number'),
        ('train_cfg.max_iters', 77, 'is 77 and max_iters 10 in .* alone'),
        ('max_iters', None, 'lacks max_iters'),
    ],
)
def test_wrong_settings_of_a_training(key, value, message, make_cfg, tmp_path):
    made = make_cfg('sampler')
    made.dump(tmp_path / 'cfg.py')
    cfg = config.load_config(tmp_path / 'cfg.py')
    config.require_training(cfg)
    cfg.merge_from_dict({key: value})
    with pytest.raises(ValueError, match=message):
        config.require_training(cfg)


def test_an_argument_that_a_class_does_not_have(make_cfg, tmp_path, run_tool):
    cfg = make_cfg('sampler')
    cfg.model.head.num_layer = 3
    cfg.dump(tmp_path / 'cfg.py')
    with pytest.raises(AssertionError) as ended:
        run_tool('train.py', tmp_path / 'cfg.py', cwd=tmp_path)
    assert 'cfg.py has a wrong setting: ' in str(ended.value)
    assert "unexpected keyword argument 'num_layer'" in str(ended.value)
    assert 'not an expected error' not in str(ended.value)


def test_accumulation_is_refused_not_ignored(make_cfg):
    cfg = make_cfg('sampler')
    cfg.optim_wrapper.accumulative_counts = 2
    with pytest.raises(ValueError, match='set model.micro_batch_size'):
        config.build_runner(cfg)


def test_one_seed_seeds_shards_and_questions(make_cfg):
    for kind in ('stream', 'sampler'):
        cfg = make_cfg(kind)
        cfg.randomness = dict(seed=5)
        config.set_data_seed(cfg)
        data = cfg.train_dataloader.dataset
        if kind == 'stream':
            assert data.seed == 5
        else:
            assert data.pipeline[1].seed == 5


def test_the_config_is_left_as_it_is(make_cfg):
    cfg = make_cfg('sampler', max_iters=3)
    before = cfg.to_dict()
    config.build_runner(cfg)
    assert cfg.to_dict() == before


def test_the_batch_of_a_rank_is_refused_not_ignored():
    """As optim_wrapper.accumulative_counts."""
    for kind in (dict(), dict(sources=[])):
        cfg = loader_cfg(12, **kind)
        cfg.train_dataloader.batch_size = 1
        with pytest.raises(ValueError) as error:
            config.set_rank_batch(cfg, 3)
        assert 'train_dataloader.batch_size is 1' in str(error.value)
        assert 'set global_batch_size' in str(error.value)
        cfg.train_dataloader.batch_size = 4  # of a config of version 0.1
        assert config.set_rank_batch(cfg, 3) == 4
    cfg = loader_cfg(12, sources=[], batch_size=1)
    with pytest.raises(ValueError, match=r'dataset\.batch_size is 1'):
        config.set_rank_batch(cfg, 3)


@pytest.mark.parametrize('kind', ['stream', 'sampler'])
def test_a_saved_config_may_be_used_on_another_number_of_ranks(kind, make_cfg):
    cfg = make_cfg(kind)
    config.build_runner(cfg)
    (saved,) = Path(cfg.work_dir).glob('*.py')
    assert config.set_rank_batch(Config.fromfile(saved), 2) == 2


def test_no_data_workers_alone_is_enough(make_cfg):
    """mmaction2 #1202, mmsegmentation #2514."""
    cfg = make_cfg('sampler', max_iters=1)
    cfg.train_dataloader.update(persistent_workers=True, prefetch_factor=2)
    runner = config.build_runner(cfg)
    runner.train()
    assert runner.iter == 1


@pytest.mark.parametrize(
    ('workers', 'batch', 'refused'),
    [(0, 1000, False), (2, 40, False), (2, 1000, True), (2, None, False)],
)
def test_data_workers_need_open_files(monkeypatch, workers, batch, refused):
    monkeypatch.setattr(resource, 'getrlimit', lambda kind: (64, 256))
    raised = []
    monkeypatch.setattr(
        resource, 'setrlimit', lambda kind, values: raised.append(values)
    )
    loader = dict(num_workers=workers, batch_size=batch)
    cfg = Config(dict(test_dataloader=loader))
    if refused:
        message = 'may have 256 open files, but the workers of test_datalo'
        with pytest.raises(ValueError, match=message):
            config.require_open_files(cfg)
    else:
        config.require_open_files(cfg)
    assert raised == [(256, 256)]
