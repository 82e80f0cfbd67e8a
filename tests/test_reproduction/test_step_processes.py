# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Processes of steps: what a command finds in its process."""

import json
import os
import subprocess
import sys
import tempfile

import pytest
import torch

from minigpt4.reproduction.step_processes import (
    start_process,
    use_short_temporary_folder,
)

STATE = """
import json, os, sys
import torch
print(json.dumps(dict(
    arguments=sys.argv[1:],
    name=__name__,
    folder=os.getcwd(),
    variable=os.environ.get('A_VARIABLE'),
    variables=len(os.environ),
    threads=torch.get_num_threads(),
    first=sys.path[0],
    session=os.getsid(0) == os.getpid(),
    input=sys.stdin.read(),
)))
sys.exit(7)
"""


@pytest.fixture(params=['forked', 'new'])
def kind(request, monkeypatch):
    """A fork of a process with the packages, or a new one as with a GPU."""
    if request.param == 'new':
        monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    elif sys.platform != 'linux':
        pytest.skip('only Linux forks')


@pytest.mark.parametrize('form', ['script', 'module', 'code'])
def test_a_command_runs_as_if_python_had_started_it(
    kind, tmp_path, form, monkeypatch
):
    code, work = tmp_path / 'code', tmp_path / 'work'
    code.mkdir()
    work.mkdir()
    (code / 'state.py').write_text(STATE)
    words, first = {
        'script': ([str(code / 'state.py')], str(code)),
        'module': (['-m', 'state'], None),
        'code': (['-c', STATE], ''),
    }[form]
    log = tmp_path / 'log'
    log.write_text('before\n')
    environment = {'A_VARIABLE': '5', 'OMP_NUM_THREADS': '1'}
    if form == 'module':
        monkeypatch.syspath_prepend(str(code))
    command = [sys.executable, *words, 'a', '-b']
    process = start_process(command, work, environment, log)
    process.join(500)
    assert process.exitcode == 7
    before, state = log.read_text().splitlines()
    found = json.loads(state)
    if first is not None:
        assert found.pop('first') == first
    assert before == 'before'
    assert found | dict(first=0) == dict(
        arguments=['a', '-b'],
        name='__main__',
        folder=str(work),
        variable='5',
        variables=2,
        threads=1,
        session=True,
        input='',
        first=0,
    )


@pytest.mark.skipif(sys.platform != 'linux', reason='only Linux forks')
def test_a_forked_process_has_no_optional_packages(tmp_path):
    """They cost memory, and bitsandbytes prints a warning."""
    log = tmp_path / 'log'
    names = '"torch", "peft", "bitsandbytes"'
    code = f'import sys; print(*{{{names}}} & {{*sys.modules}})'
    process = start_process([sys.executable, '-c', code], tmp_path, {}, log)
    process.join(500)
    assert log.read_text().split() == ['torch']


def test_an_error_is_in_the_log(kind, tmp_path):
    log = tmp_path / 'log'
    command = [sys.executable, '-c', 'raise OSError("no space")']
    process = start_process(command, tmp_path, os.environ, log)
    process.join(500)
    assert process.exitcode == 1
    assert log.read_text().splitlines()[-1] == 'OSError: no space'


def test_a_long_temporary_folder_is_replaced(tmp_path):
    """In another process, since one of pytest has its server already."""
    folder = tmp_path / ('x' * 120)
    folder.mkdir()
    code = f"""
import os, pathlib, sys
from minigpt4.reproduction.step_processes import (
    start_process, use_short_temporary_folder)
use_short_temporary_folder()
code = 'import tempfile; print(tempfile.gettempdir())'
here = pathlib.Path({str(tmp_path)!r})
process = start_process(
    [sys.executable, '-c', code], here, os.environ, here / 'log')
process.join(500)"""
    environment = {**os.environ, 'TMPDIR': str(folder)}
    subprocess.run([sys.executable, '-c', code], env=environment, check=True)
    assert (tmp_path / 'log').read_text() == '/tmp\n'


def test_a_short_temporary_folder_is_kept(monkeypatch):
    monkeypatch.setenv('TMPDIR', '/var/tmp')
    monkeypatch.setattr(tempfile, 'tempdir', None)
    use_short_temporary_folder()
    assert tempfile.gettempdir() == '/var/tmp'
