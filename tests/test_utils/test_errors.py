# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Errors are reported in one printable line."""

import errno
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from minigpt4.utils import errors
from minigpt4.utils.errors import (
    line_with_name,
    one_line,
    printable,
    reports_errors,
    short_json,
)
from minigpt4.utils.signals import StopSignal


@pytest.mark.parametrize(
    'text, escaped',
    [
        ('a photo, 写真 é.png', 'a photo, 写真 é.png'),
        ('a\nforged line', r'a\nforged line'),
        ('\x1b]0;title\x07', r'\x1b]0;title\x07'),
        ('exe.\u202egnp', r'exe.\u202egnp'),
        ('\udcff.png', r'\udcff.png'),
        ('a\u2028b', r'a\u2028b'),
        ('', ''),
    ],
)
def test_control_characters_are_escaped(text, escaped):
    assert printable(text) == escaped


@pytest.mark.parametrize(
    'message', ['is empty', 'a\n.pth is empty', 'x is no key of a\n.pth']
)
def test_a_line_has_the_name_once(message):
    error = ValueError(message.replace('\n', r'\n'))
    assert line_with_name(error, 'a\n.pth').count(r'a\n.pth') == 1


def test_value_is_formatted_as_short_printable_json():
    assert short_json({'a': ['é', None]}) == '{"a": ["é", null]}'
    assert short_json('x' * 100) == '"' + 'x' * 56 + '...'
    assert short_json('a\u2028b') == r'"a\u2028b"'
    assert short_json(ValueError) == '"<class \'ValueError\'>"'


@pytest.mark.parametrize(
    'error, line',
    [
        (ValueError('first\nsecond'), 'first'),
        (ValueError(''), 'ValueError'),
        (
            FileNotFoundError(errno.ENOENT, 'No such', 'a.png'),
            'a.png does not exist',
        ),
        (
            PermissionError(errno.EACCES, 'Permission denied', 'a'),
            'a: Permission denied',
        ),
        (ValueError('\x1b[31mred'), r'\x1b[31mred'),
    ],
)
def test_error_is_one_printable_line(error, line):
    assert one_line(error) == line


def _command(error):
    @reports_errors
    def main(argv=None):
        if error is not None:
            raise error

    return main


def test_command_without_error_returns_0():
    assert _command(None)([]) == 0


def test_expected_error_is_one_line_and_status_1(capsys):
    assert _command(ValueError('a.json is empty.'))([]) == 1
    assert capsys.readouterr().err == 'error: a.json is empty.\n'


def test_unexpected_error_has_its_type_and_no_traceback(capsys):
    assert _command(IndexError('list index'))([]) == 1
    err = capsys.readouterr().err
    assert err.startswith('error: IndexError: list index')
    assert '--debug' in err and err.count('\n') == 1


def test_debug_prints_the_traceback(capsys):
    assert _command(ValueError('wrong'))(['--debug']) == 1
    err = capsys.readouterr().err
    assert 'Traceback' in err and err.endswith('error: wrong\n')


def test_the_environment_asks_every_command_for_tracebacks(
    capsys, monkeypatch
):
    monkeypatch.setenv('MINIGPT4_DEBUG', '1')
    assert _command(ValueError('wrong'))([]) == 1
    err = capsys.readouterr().err
    assert 'Traceback' in err and err.endswith('error: wrong\n')


@pytest.mark.parametrize(
    'stop, status',
    [
        (KeyboardInterrupt(), 130),
        (StopSignal(signal.SIGTERM), 143),
        (StopSignal(signal.SIGHUP), 129),
    ],
)
def test_stopped_command_exits_with_128_plus_signal(stop, status, capsys):
    assert _command(stop)([]) == status
    err = capsys.readouterr().err
    assert 'stopped by' in err and 'Traceback' not in err


def test_full_disk_as_output_is_a_one_line_error():
    # the module without the package, whose import takes seconds
    folder = Path(errors.__file__).parents[1]
    code = (
        'import sys, types\n'
        'package = sys.modules["minigpt4"] = types.ModuleType("minigpt4")\n'
        f'package.__path__ = [{str(folder)!r}]\n'
        'from minigpt4.utils.errors import reports_errors\n'
        'sys.exit(reports_errors(lambda: print("x" * 100))())\n'
    )
    with open('/dev/full', 'w') as full:
        done = subprocess.run(
            [sys.executable, '-c', code],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 1
    assert done.stderr == 'error: No space left on device\n'
