# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Configs, work dirs and checkpoints of version 0.1 are still usable."""

import shutil
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import HOOKS

from minigpt4.engine import DeferredLossHook
from minigpt4.engine.config import build_runner, load_config
from minigpt4.weights.checksum import CHECKSUM

# dumped by version 0.1 from configs/minigpt4/stage1_nano.py
OLD_CONFIG = Path(__file__).parent / 'release_0_1/stage1_nano.py.txt'


def train(cfg):
    runner = build_runner(cfg)
    runner.train()
    return runner


def as_of_0_1(path):
    """Remove from a checkpoint the values that 0.1 did not save."""
    checkpoint = torch.load(path, weights_only=False)
    del checkpoint[CHECKSUM]
    data = checkpoint['data']
    for name in ('samples', 'batch', 'streams', 'shards'):
        del data[name]
    for group in data['positions']:
        for name, (position,) in group.items():
            group[name] = position
    torch.save(checkpoint, path)


@pytest.fixture
def old_config(tmp_path):
    path = tmp_path / 'old/stage1_nano.py'
    path.parent.mkdir()
    shutil.copy(OLD_CONFIG, path)
    return path


@pytest.mark.filterwarnings(
    'ignore::DeprecationWarning', 'ignore::FutureWarning'
)
def test_a_work_dir_of_0_1_is_resumed(old_config, make_cfg, losses, written):
    new, old = (
        make_cfg(
            'stream',
            file,
            max_iters=6,
            **{'train_dataloader.dataset.streams': 1, 'randomness.seed': 42},
        )
        for file in (None, old_config)
    )
    assert old.custom_hooks[1].type == 'minigpt4.engine.SanityHook'
    old.custom_hooks.pop()  # sample captions
    train(new)
    train(old)
    (Path(old.work_dir) / 'iter_6.pth').unlink()
    as_of_0_1(f'{old.work_dir}/iter_4.pth')
    # the config that the run has dumped, with the type names of 0.1
    (dumped,) = Path(old.work_dir).glob('*.py')
    assert 'minigpt4.engine.LateInfoHook' in dumped.read_text()
    cfg = load_config(
        str(dumped),
        old.work_dir,
        {
            'resume': True,
            'train_dataloader.dataset.streams': None,
            'experiment_name': f'{old.experiment_name}-resumed',
        },
    )
    runner = train(cfg)
    assert runner.iter == 6
    assert 'iter_4.pth at iteration 4' in written(cfg)
    kinds = [type(hook).__name__ for hook in runner.hooks]
    for name in ('ResumeHook', 'SanityHook', 'ThroughputHook'):
        assert kinds.count(name) == 1
    assert losses(cfg) == losses(new)


@pytest.mark.parametrize(
    'name',
    [
        'minigpt4.LateInfoHook',
        'minigpt4.engine.LateInfoHook',
        'minigpt4.engine.hooks.LateInfoHook',
    ],
)
def test_the_old_name_of_a_hook_is_built_with_a_warning(name):
    with pytest.warns(
        (DeprecationWarning, FutureWarning), match='use .*DeferredLossHook'
    ):
        hook = HOOKS.build(dict(type=name, interval=7))
    assert isinstance(hook, DeferredLossHook)
    assert hook.interval == 7


def test_a_user_config_that_names_all_base_configs_is_read(tmp_path):
    root = Path(__file__).parents[2] / 'configs/minigpt4'
    folder = tmp_path / 'minigpt4'
    shutil.copytree(root, folder)
    (folder / 'mine.py').write_text(
        'from mmengine.config import read_base\n'
        'from mmengine.hooks import EMAHook\n'
        'with read_base():\n'
        '    from ._base_.nano import *\n'
        '    from ._base_.runtime import *\n'
        '    from ._base_.stage1 import *\n'
        'custom_hooks += [dict(type=EMAHook)]\n'
    )
    cfg = Config.fromfile(folder / 'mine.py')
    assert [hook.type.__name__ for hook in cfg.custom_hooks] == ['EMAHook']
    assert set(cfg.default_hooks) >= {'resume', 'sanity', 'throughput'}


def test_a_user_config_that_indexes_the_hooks_is_answered(tmp_path):
    path = tmp_path / 'cfg.py'
    path.write_text('custom_hooks = []\ncustom_hooks[-1].update(interval=5)\n')
    with pytest.raises(ValueError, match='at line 2.*default_hooks, by name'):
        load_config(str(path))


def test_hooks_of_custom_hooks_replace_the_default_ones(make_cfg):
    """In 0.1 custom_hooks held all hooks of the project."""
    cfg = make_cfg('stream', max_iters=2)
    cfg.custom_hooks = [
        dict(type='minigpt4.LateInfoHook'),
        dict(type='minigpt4.SanityHook', interval=1),
    ]
    with pytest.warns(FutureWarning) as caught:
        runner = build_runner(cfg)
    names = [type(hook).__name__ for hook in runner.hooks]
    assert names.count('SanityHook') == 1
    assert names.count('LateInfoHook') == 1
    assert 'DeferredLossHook' not in names
    texts = [str(warning.message) for warning in caught]
    assert any('default_hooks.sanity is replaced' in text for text in texts)
    assert any('use DeferredLossHook' in text for text in texts)
