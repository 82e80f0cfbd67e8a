# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The commands of a reproduction."""

from pathlib import Path

import pytest

from minigpt4.reproduction import commands
from minigpt4.reproduction.commands import (
    arguments,
    config_file,
    copied_config,
    copy_configs,
    minigpt4,
    tool,
)


@pytest.mark.parametrize('command', [tool('x.py', 'a'), minigpt4('a')])
def test_arguments_do_not_depend_on_where_programs_are(command):
    assert arguments(command) == ('a',)


def test_files_of_the_project():
    assert Path(config_file('stage1_small.py')).is_file()
    assert Path(tool('train.py')[1]).is_file()


def test_an_output_among_the_configs_is_not_copied(tmp_path, monkeypatch):
    monkeypatch.setattr(commands, 'project_root', lambda: tmp_path)
    folder = tmp_path / 'configs' / 'minigpt4' / 'out' / 'work'
    folder.mkdir(parents=True)
    (tmp_path / 'configs' / 'minigpt4' / 'a.py').touch()
    (folder / 'log').touch()
    copy_configs(folder)
    made = sorted(p.name for p in (folder / 'configs').rglob('*'))
    assert made == ['a.py', 'minigpt4']


def test_configs_are_copied_again(tmp_path):
    old = tmp_path / 'configs' / 'minigpt4' / 'removed.py'
    old.parent.mkdir(parents=True)
    old.touch()
    copy_configs(tmp_path)
    assert not old.exists()
    for name in ('stage1_nano.py', '_base_/nano.py'):
        copy = tmp_path / copied_config(name)
        assert copy.read_bytes() == Path(config_file(name)).read_bytes()
