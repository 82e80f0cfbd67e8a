# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""``minigpt4 data``: its actions."""

import importlib
import subprocess
import sys

import pytest

from minigpt4_cli import data
from minigpt4_cli.main import main


@pytest.mark.parametrize('action', data.ACTIONS)
def test_each_action_has_help(capsys, action):
    with pytest.raises(SystemExit) as stop:
        main(['data', action, '--help'])
    assert stop.value.code == 0
    assert f'usage: minigpt4 data {action}' in capsys.readouterr().out


def test_no_action_is_an_error(capsys):
    with pytest.raises(SystemExit) as stop:
        main(['data'])
    assert stop.value.code == 2
    assert 'ACTION' in capsys.readouterr().err


def test_options_need_no_torch():
    code = (
        'import sys; from minigpt4_cli import data; import argparse; '
        'data.add_arguments(argparse.ArgumentParser()); '
        'sys.exit("torch" in sys.modules)'
    )
    assert subprocess.run([sys.executable, '-c', code]).returncode == 0


def test_limits_are_those_of_the_library():
    limits = importlib.import_module('minigpt4_cli.data_check').LIMITS
    kinds = importlib.import_module('minigpt4.data_tools.limits').KINDS
    assert set(limits) == set(kinds) - {'skipped'}
    for name, help_ in limits.items():
        default = kinds[name].limit
        assert f'(default: {"any" if default is None else default})' in help_
