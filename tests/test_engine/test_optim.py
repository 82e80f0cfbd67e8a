# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The official learning rates, and what the optimizer is given."""

import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS
from torch import nn

from minigpt4.engine import WarmupCosineLR

CONFIGS = Path(__file__).parents[2] / 'configs/minigpt4'


def optimizer(lr):
    return torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=lr)


@pytest.mark.parametrize(
    'name, points',
    [
        (
            'stage1',
            {
                0: 1.0,
                2500: 50.5,
                4999: 99.98,
                5000: 97.07,
                10000: 90.0,
                15000: 82.93,
                19999: 80.0,
            },
        ),
        (
            'stage2_1000it',
            {
                0: 1.0,
                100: 15.5,
                199: 29.86,
                200: 28.09,
                400: 23.09,
                600: 16.91,
                999: 10.0,
            },
        ),
    ],
)
def test_rates_are_the_official_ones(name, points):
    """The points are rounded to 1e-8 in the reference."""
    cfg = Config.fromfile(CONFIGS / f'{name}.py')
    steps = optimizer(cfg.optim_wrapper.optimizer.lr)
    scheduler = PARAM_SCHEDULERS.build(
        cfg.param_scheduler[0],
        default_args=dict(optimizer=steps, end=cfg.max_iters),
    )
    assert isinstance(scheduler, WarmupCosineLR)
    rates = []
    for _ in range(cfg.max_iters):
        rates.append(steps.param_groups[0]['lr'])
        steps.step()
        scheduler.step()
    for step, rate in points.items():
        assert rates[step] == pytest.approx(rate * 1e-6, abs=5.1e-9)
    assert rates[-1] == min(rates[cfg.param_scheduler[0].warmup :])


def test_rate_resumes():
    first, second = optimizer(1e-2), optimizer(1e-2)
    schedulers = [
        WarmupCosineLR(o, warmup=5, end=20, minimum=1e-3)
        for o in (first, second)
    ]
    for _ in range(8):
        first.step()
        schedulers[0].step()
    second.load_state_dict(first.state_dict())
    schedulers[1].load_state_dict(schedulers[0].state_dict())
    for _ in range(5):
        for o, scheduler in zip((first, second), schedulers):
            o.step()
            scheduler.step()
        assert first.param_groups[0]['lr'] == second.param_groups[0]['lr']
    assert first.param_groups[0]['lr'] == schedulers[0].rate(1e-2, 13)


def test_epochs_are_refused():
    with pytest.raises(ValueError, match='by_epoch=False'):
        WarmupCosineLR(optimizer(1.0), warmup=1, end=2, by_epoch=True)


def wrapper_of(model, **paramwise_cfg):
    cfg = Config.fromfile(CONFIGS / 'stage1.py').optim_wrapper
    cfg.paramwise_cfg = paramwise_cfg
    return build_optim_wrapper(model, cfg)


def test_two_groups_of_trained_parameters(tiny_model):
    wrapper = wrapper_of(tiny_model)
    groups = wrapper.optimizer.param_groups
    head = dict(tiny_model.head.named_parameters())
    weight, bias = head['layers.0.weight'], head['layers.0.bias']
    assert [list(map(id, g['params'])) for g in groups] == [
        [id(weight)],
        [id(bias)],
    ]
    assert [g['weight_decay'] for g in groups] == [0.05, 0.0]
    assert all(g['betas'] == (0.9, 0.999) for g in groups)
    assert all(g['lr'] == 1e-4 for g in groups)


def test_factors_by_name(build_tiny):
    model = build_tiny(
        head=dict(
            type='minigpt4.LinearProjector',
            num_prefix_tokens=3,
            position_bias=True,
        )
    )
    wrapper = wrapper_of(
        model,
        custom_keys={
            'head': dict(lr_mult=2),
            'head.prefix': dict(lr_mult=100),
            'head.position_bias': dict(lr_mult=50, decay_mult=0.1),
        },
    )
    names = {id(p): n for n, p in model.named_parameters()}
    groups = [
        ([names[id(p)] for p in g['params']], g['lr'], g['weight_decay'])
        for g in wrapper.optimizer.param_groups
        if g['params']
    ]
    assert sorted(groups) == [
        (['head.layers.0.bias'], 2e-4, 0.0),
        (['head.layers.0.weight'], 2e-4, 0.05),
        (['head.position_bias'], pytest.approx(5e-3), pytest.approx(5e-3)),
        (['head.prefix'], pytest.approx(1e-2), 0.0),
    ]


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(bias_lr_mult=2), 'paramwise_cfg has bias_lr_mult, which'),
        (dict(custom_keys=dict(head=dict(lr=2))), "'head'] has lr, which"),
        (
            dict(custom_keys=dict(head=dict(lr_mult=-1))),
            'lr_mult=-1; expected a number from 0',
        ),
        (
            dict(custom_keys=dict(tail=dict(lr_mult=1))),
            "custom_keys has 'tail', but no trained parameter",
        ),
    ],
)
def test_wrong_factors_are_refused(tiny_model, settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        wrapper_of(tiny_model, **settings)


def test_nothing_trained_is_refused(tiny_model):
    tiny_model.requires_grad_(False)
    with pytest.raises(ValueError, match='nothing of the model is trained'):
        wrapper_of(tiny_model)
