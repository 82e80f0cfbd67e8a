# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Calls that a file system can block end after a time limit."""

import os
import threading

import pytest

from minigpt4.utils.time_limit import (
    READ_SECONDS_VARIABLE,
    ReadTimeoutError,
    call_with_limit,
)


def test_result_and_error_of_a_call_are_returned():
    assert call_with_limit(lambda: 7, 'a.jpg') == 7
    with pytest.raises(KeyError):
        call_with_limit(lambda: {}['x'], 'a.jpg')


def test_blocked_call_is_abandoned_and_named(monkeypatch):
    monkeypatch.setenv(READ_SECONDS_VARIABLE, '0.05')
    release = threading.Event()
    with pytest.raises(ReadTimeoutError, match=r'data/a\.jpg .* 0\.05 sec'):
        call_with_limit(release.wait, 'data/a.jpg')
    monkeypatch.setenv(READ_SECONDS_VARIABLE, '60')
    # the blocked thread is not reused
    assert call_with_limit(lambda: 7, 'b.jpg') == 7
    release.set()
    assert call_with_limit(lambda: 8, 'b.jpg') == 8


def test_calls_work_in_a_forked_process():
    call_with_limit(int, 'a.jpg')
    child = os.fork()
    if child == 0:
        os._exit(call_with_limit(lambda: 7, 'a.jpg'))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


@pytest.mark.parametrize('text', ['0', '-1', 'soon', 'nan', 'inf'])
def test_invalid_time_limit_is_refused(monkeypatch, text):
    monkeypatch.setenv(READ_SECONDS_VARIABLE, text)
    with pytest.raises(ValueError, match=f"'{text}'; expected a number"):
        call_with_limit(int, 'a.jpg')
