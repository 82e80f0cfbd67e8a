# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Signals stop a process now or after the current step."""

import os
import signal
import threading

import pytest

from minigpt4.utils import signals
from minigpt4.utils.signals import (
    STOP_SIGNALS,
    StopRequest,
    StopSignal,
    exit_status,
    raise_on_signals,
)


@pytest.mark.parametrize('signum', STOP_SIGNALS)
def test_stop_request_records_the_signal_and_restores_the_handler(signum):
    before = signal.getsignal(signum)
    with StopRequest() as stop:
        assert stop.signum is None
        stop.raise_if_requested()
        os.kill(os.getpid(), signum)
        assert stop.signum == signum
        with pytest.raises(StopSignal) as caught:
            stop.raise_if_requested()
    assert exit_status(caught.value) == 128 + signum
    assert signal.getsignal(signum) is before


@pytest.mark.parametrize('signum', STOP_SIGNALS)
def test_signal_is_raised_and_the_handler_restored(signum):
    before = signal.getsignal(signum)
    with pytest.raises(StopSignal) as caught, raise_on_signals():
        os.kill(os.getpid(), signum)
    assert exit_status(caught.value) == 128 + signum
    assert signal.getsignal(signum) is before


@pytest.mark.parametrize('signum', STOP_SIGNALS)
def test_an_interrupt_after_the_signal_has_its_number(signum):
    with pytest.raises(KeyboardInterrupt) as caught:
        with raise_on_signals('all is saved'):
            try:
                os.kill(os.getpid(), signum)
            except StopSignal:  # as Ray does while it waits
                raise KeyboardInterrupt from None
    assert exit_status(caught.value) == 128 + signum
    assert str(caught.value) == (
        f'stopped by {signal.Signals(signum).name}; all is saved'
    )


def _end_of_child(work) -> int:
    """The wait status of a forked child that runs ``work``."""
    pid = os.fork()
    if not pid:
        try:
            work()
        finally:
            os._exit(99)
    return os.waitpid(pid, 0)[1]


def test_second_signal_ends_a_process_that_continues(monkeypatch):
    monkeypatch.setattr(signals, 'REPEAT_SECONDS', -1)

    def work():
        with StopRequest():
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)

    status = _end_of_child(work)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGTERM


def test_immediately_repeated_signal_counts_once(monkeypatch):
    monkeypatch.setattr(signals, 'REPEAT_SECONDS', 600)

    def work():
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
        os._exit(stop.signum)

    assert os.WEXITSTATUS(_end_of_child(work)) == signal.SIGTERM


def test_second_signal_ends_a_process_that_cleans_up(monkeypatch):
    monkeypatch.setattr(signals, 'REPEAT_SECONDS', -1)

    def work():
        with raise_on_signals():
            try:
                os.kill(os.getpid(), signal.SIGINT)
            finally:
                os.kill(os.getpid(), signal.SIGHUP)

    status = _end_of_child(work)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGHUP


def test_ignored_hangup_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.signum is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_stop_request_in_another_thread_installs_no_handler():
    before = signal.getsignal(signal.SIGTERM)
    inside = []

    def work():
        with StopRequest():
            inside.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert inside == [before]
