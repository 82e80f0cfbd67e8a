# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Options over a config: values as written, keys that exist."""

import argparse
from pathlib import Path

import pytest

from minigpt4.engine.cfg_options import (
    CfgOptions,
    merge_options,
    parse_value,
)
from minigpt4.engine.config import load_config

STAGE1 = str(Path(__file__).parents[2] / 'configs/minigpt4/stage1_nano.py')


@pytest.mark.parametrize(
    'text, value',
    [
        # mmpose #465, mmdetection #7878
        ('What is this?', 'What is this?'),
        ('Look, what is this?', 'Look, what is this?'),
        ('/data/my photos', '/data/my photos'),
        ('a,b', 'a,b'),
        ('  a  ', '  a  '),
        ('', ''),
        ('{a: 1}', '{a: 1}'),
        ('[INST] x [/INST]', '[INST] x [/INST]'),
        ('[1,2', '[1,2'),
        ('007', '007'),
        ('1_000', '1_000'),
        ('+5', '+5'),
        ('1,', '1,'),
        ('Infinity', 'Infinity'),
        ('3', 3),
        (' 3 ', 3),
        ('-1.5e-4', -1.5e-4),
        ('True', True),
        ('false', False),
        ('None', None),
        ('[1,2]', [1, 2]),
        ('(1, 2.5)', (1, 2.5)),
        ('1,2', [1, 2]),
        ('[]', []),
        ('[a, b c]', ['a', 'b c']),
        ('[(1,2),[a,b],None]', [(1, 2), ['a', 'b'], None]),
        ('["a, b", \'c]\']', ['a, b', 'c]']),
        ("[it's, b]", ["it's", 'b']),
        ('"[1,2]"', '[1,2]'),
        ("'3'", '3'),
        ('"\'x\'"', "'x'"),
        ('"a" and "b"', '"a" and "b"'),
    ],
)
def test_values_are_as_written(text, value):
    found = parse_value(text)
    assert found == value and type(found) is type(value)


def test_options_are_taken_together(capsys):
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=CfgOptions)
    found = parser.parse_args(
        ['--cfg-options', 'a=1', 'b.c=x=y', '--cfg-options', 'a=2 3']
    )
    assert found.cfg_options == {'a': '2 3', 'b.c': 'x=y'}
    for wrong in ('a', '=1'):
        with pytest.raises(SystemExit):
            parser.parse_args(['--cfg-options', wrong])
        printed = capsys.readouterr().err
        assert f'expected KEY=VALUE, found {wrong!r}' in printed


@pytest.mark.parametrize(
    'key, value, reason',
    [
        ('max_iter', 3, "no setting 'max_iter'; did you mean 'max_iters'?"),
        ('nonsense', 3, "the config has no setting 'nonsense'"),
        ('model.promt', 'x', "did you mean 'prompt'?"),
        ('model.decodr.dtype', 'x', "did you mean 'decoder'?"),
        ('optim_wrapper.optimizer.lrr', 1.0, "did you mean 'lr'?"),
        ('train_dataloader.num_worker', 1, "did you mean 'num_workers'?"),
        ('model.generation.max_new_token', 1, "mean 'max_new_tokens'?"),
        ('default_hooks.sanity.intervall', 1, "did you mean 'interval'?"),
        ('custom_hooks.9.interval', 1, 'custom_hooks is an empty list'),
        ('param_scheduler.9.end', 1, 'param_scheduler is a list of 1'),
        ('param_scheduler.x.end', 1, 'expected an index from 0 to 0'),
        ('default_hooks.sampler_seed.x', 1, 'default_hooks.sampler_seed is N'),
        ('max_iters.x', 1, 'has no settings of its own'),
        ('max_iters', 'x', "'x' is not a number like 800"),
        ('model', 'x', 'it is a group of settings'),
    ],
)
def test_mistyped_options_are_refused(key, value, reason):
    with pytest.raises(ValueError) as error:
        load_config(STAGE1, options={key: value})
    message = str(error.value)
    assert message.startswith(f'--cfg-options {key}: ') and reason in message


@pytest.mark.parametrize(
    'key, value',
    [
        ('model.micro_batch_size', 2),
        ('model.compile', True),
        ('model.decoder.lora.r', 8),
        ('model.generation.min_new_tokens', 1),
        ('load_from', '/data/a b.pth'),
        ('log_level', 'INFO'),
        ('randomness.deterministic', True),
        ('optim_wrapper.clip_grad', None),
        ('train_dataloader.prefetch_factor', 2),
        ('train_dataloader.dataset.seed', 2),
        ('train_dataloader.dataset.sources.0.shards', '/d/*.tar'),
        ('default_hooks.checkpoint.save_optimizer', False),
        ('default_hooks.sample_captions.interval', 100000),
    ],
)
def test_settings_that_exist_may_be_set(key, value):
    node = load_config(STAGE1, options={key: value})
    for part in key.split('.'):
        node = node[int(part)] if part.isdecimal() else node[part]
    assert node == value


def test_a_name_that_looks_like_a_number_stays_a_name():
    """librouteros #379."""
    sources = 'train_dataloader.dataset.sources.0.shards'
    for key in ('work_dir', 'load_from', 'model.prompt', sources):
        cfg = load_config(STAGE1, options={key: 2024})
        node = cfg
        for part in key.split('.'):
            node = node[int(part)] if part.isdecimal() else node[part]
        assert node == '2024'
        for value in (1e3, True):
            with pytest.raises(
                ValueError, match=f'{key}: .* is not a string; put'
            ):
                load_config(STAGE1, options={key: value})
    cfg = load_config(STAGE1, options={'work_dir': 2024, 'max_iters': 2024})
    assert (cfg.work_dir, cfg.max_iters) == ('2024', 2024)


def test_hooks_of_version_0_1_are_found_by_their_index():
    options = {
        'custom_hooks.1.patience': 7,
        'custom_hooks.3.dataset.data_root': 'elsewhere',
    }
    with pytest.warns(FutureWarning) as warned:
        cfg = load_config(STAGE1, options=options)
    assert [str(w.message) for w in warned] == [
        '--cfg-options custom_hooks.1.patience is deprecated and will be '
        'removed in 0.3; use default_hooks.sanity.patience.',
        '--cfg-options custom_hooks.3.dataset.data_root is deprecated and '
        'will be removed in 0.3; use '
        'default_hooks.sample_captions.dataset.data_root.',
    ]
    assert cfg.default_hooks.sanity.patience == 7
    assert cfg.default_hooks.sample_captions.dataset.data_root == 'elsewhere'


def test_hooks_of_the_user_keep_their_index():
    cfg = load_config(STAGE1)
    cfg.custom_hooks = [dict(type='EMAHook', interval=1)]
    merge_options(cfg, {'custom_hooks.0.interval': 5})
    assert cfg.custom_hooks[0].interval == 5
    with pytest.warns(FutureWarning):  # after the four of 0.1
        merge_options(cfg, {'custom_hooks.4.interval': 6})
    assert cfg.custom_hooks[0].interval == 6
