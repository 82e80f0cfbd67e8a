# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
import errno
import signal
import subprocess
import sys

import pytest

from minigpt4.utils.errors import one_line, printable, reports_errors
from minigpt4.utils.signals import StopSignal


@pytest.mark.parametrize(
    'text, shown',
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
def test_control_characters_are_escaped(text, shown):
    assert printable(text) == shown


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
def test_an_error_is_one_printable_line(error, line):
    assert one_line(error) == line


def _command(error):
    @reports_errors
    def main(argv=None):
        if error is not None:
            raise error

    return main


def test_a_command_without_error_returns_0():
    assert _command(None)([]) == 0


def test_an_expected_error_is_one_line_and_1(capsys):
    assert _command(ValueError('a.json is empty.'))([]) == 1
    assert capsys.readouterr().err == 'error: a.json is empty.\n'


def test_an_unexpected_error_names_its_type_without_traceback(capsys):
    assert _command(IndexError('list index'))([]) == 1
    err = capsys.readouterr().err
    assert err.startswith('error: IndexError: list index')
    assert '--debug' in err and err.count('\n') == 1


def test_debug_shows_the_traceback(capsys):
    assert _command(ValueError('wrong'))(['--debug']) == 1
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
def test_a_stopped_command_exits_as_shells_expect(stop, status, capsys):
    assert _command(stop)([]) == status
    err = capsys.readouterr().err
    assert 'stopped by' in err and 'Traceback' not in err


def test_a_full_disk_as_output_is_one_line():
    code = (
        'from minigpt4.utils.errors import reports_errors\n'
        'import sys\n'
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
