# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The limit of open files is raised as far as it can be."""

import resource
import sys

import pytest

from minigpt4.utils.open_files import raise_open_files

UNLIMITED = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ('soft', 'hard', 'expected'),
    [
        (256, 4096, 4096),
        (1024, 1_048_576, 65_536),
        (1024, UNLIMITED, 65_536),
        (100_000, 1_048_576, 100_000),  # is never lowered
        (512, 512, 512),
        (UNLIMITED, UNLIMITED, sys.maxsize),
    ],
)
def test_the_soft_limit_is_raised(monkeypatch, soft, hard, expected):
    limits = [(soft, hard)]
    monkeypatch.setattr(resource, 'getrlimit', lambda kind: limits[-1])
    monkeypatch.setattr(
        resource, 'setrlimit', lambda kind, values: limits.append(values)
    )
    assert raise_open_files() == expected
    if expected in (soft, sys.maxsize):
        assert limits == [(soft, hard)]
    else:
        assert limits[1:] == [(expected, hard)]


@pytest.mark.parametrize(('allowed', 'expected'), [(10_240, 10_240), (0, 256)])
def test_a_system_that_allows_less_than_its_hard_limit(
    monkeypatch, allowed, expected
):
    def set_limit(kind, values):
        if values[0] > allowed:
            raise ValueError('current limit exceeds maximum limit')

    limits = 256, UNLIMITED
    monkeypatch.setattr(resource, 'getrlimit', lambda kind: limits)
    monkeypatch.setattr(resource, 'setrlimit', set_limit)
    assert raise_open_files() == expected
