# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The commands of a reproduction."""

from pathlib import Path

import pytest

from minigpt4.reproduction.commands import (
    arguments,
    config_file,
    minigpt4,
    tool,
)


@pytest.mark.parametrize('command', [tool('x.py', 'a'), minigpt4('a')])
def test_arguments_do_not_depend_on_where_programs_are(command):
    assert arguments(command) == ('a',)


def test_files_of_the_project():
    assert Path(config_file('stage1_small.py')).is_file()
    assert Path(tool('train.py')[1]).is_file()
