# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Progress bars: drawn on a terminal and nowhere else."""

import io

import pytest

from minigpt4.utils.progress import progress_bar, track_progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def make_terminal(monkeypatch):
    monkeypatch.setenv('TERM', 'xterm')
    terminal = Terminal()
    monkeypatch.setattr('sys.stderr', terminal)
    return terminal


def test_items_bytes_and_status_are_shown(monkeypatch):
    terminal = make_terminal(monkeypatch)
    with progress_bar(with_status=True) as bar:
        task = bar.add_task('captioning', total=4, status='')
        bar.update(task, advance=3, status='1 failed')
    assert 'captioning' in terminal.getvalue()
    assert '3/4' in terminal.getvalue() and '1 failed' in terminal.getvalue()
    with progress_bar(in_bytes=True) as bar:
        bar.update(bar.add_task('llm', total=4000), advance=2000)
    assert '2.0/4.0 kB' in terminal.getvalue()


def test_items_are_tracked(monkeypatch):
    terminal = make_terminal(monkeypatch)
    assert list(track_progress([1, 2], 'writing')) == [1, 2]
    assert '2/2' in terminal.getvalue()


def test_hidden_bars_print_nothing(monkeypatch):
    terminal = make_terminal(monkeypatch)
    assert list(track_progress([1, 2], 'writing', visible=False)) == [1, 2]
    assert terminal.getvalue() == ''


@pytest.mark.parametrize('stream', [io.StringIO(), None])
def test_no_bar_without_a_terminal(monkeypatch, stream):
    monkeypatch.setattr('sys.stderr', stream)
    assert list(track_progress([1, 2], 'writing')) == [1, 2]
    assert stream is None or stream.getvalue() == ''
