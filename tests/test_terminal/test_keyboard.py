# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Lines from the keyboard: signals, continued lines, completion."""

import ctypes
import functools
import os
import pty
import readline
import select
import signal
import sys
import time

import pytest

from minigpt4.terminal.keyboard import line_editing, read_line


def in_terminal(run):
    """Run a function in a child at a pseudo-terminal.

    Returns:
        The process id and the file descriptor of the terminal.
    """
    pid, fd = pty.fork()
    if not pid:
        sys.stdin, sys.stdout = open(0), open(1, 'w')
        try:
            run()
        finally:
            os._exit(99)
    return pid, fd


def exit_status(pid, fd, seconds=120):
    """Wait for a child and read its output; None after too long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if select.select([fd], [], [], 0.05)[0]:
            try:
                os.read(fd, 1024)
            except OSError:  # the child has closed the terminal
                pass
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


@pytest.mark.parametrize('signum', [signal.SIGINT, signal.SIGTERM])
def test_signal_while_a_key_is_processed_is_handled(signum):
    """A completer written in C sends it, so Python cannot handle it there."""

    def read():
        def leave(signum, frame):
            raise KeyboardInterrupt

        signal.signal(signum, leave)
        kill = ctypes.CDLL(None).kill
        kill.restype = None
        readline.set_completer(functools.partial(kill, os.getpid(), signum))
        readline.parse_and_bind('tab: complete')
        try:
            read_line(0)
        except KeyboardInterrupt:
            os._exit(0)

    pid, fd = in_terminal(read)
    os.read(fd, 1024)  # the prompt
    os.write(fd, b'a\t')
    status = exit_status(pid, fd)
    os.close(fd)
    assert status == 0


def test_backslash_continues_the_line(monkeypatch):
    lines = {'you [2 images]> ': 'one\\', '...> ': 'two'}
    monkeypatch.setattr('builtins.input', lines.__getitem__)
    assert read_line(2) == 'one\ntwo'


def test_signal_handling_is_restored(monkeypatch):
    monkeypatch.setattr('builtins.input', lambda prompt: 'a')
    before = signal.set_wakeup_fd(-1)
    read_line(0)
    assert signal.set_wakeup_fd(before) == -1


def test_commands_and_paths_are_completed(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('XDG_STATE_HOME', str(tmp_path / 'state'))
    (tmp_path / 'my image.png').touch()
    (tmp_path / 'my folder').mkdir()
    with line_editing(['/save', '/settings', '/quit']):
        complete = readline.get_completer()
        assert [complete('/set', i) for i in range(2)] == [
            '/settings ',
            None,
        ]
        assert [complete('my', i) for i in range(3)] == [
            'my\\ folder/',
            'my\\ image.png ',
            None,
        ]
    assert (tmp_path / 'state/minigpt4/chat_history').exists()
