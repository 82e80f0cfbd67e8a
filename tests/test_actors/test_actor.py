# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""What an actor checks before it works, and what it returns."""

import os

import torch

import minigpt4
from minigpt4.actors.actor import ActorStart, WorkerActor


def work(chunk):
    for number in chunk:
        if number < 0:
            raise KeyError(f'a bug\n{number}')
        yield number * 10


def make():
    return work


def fail():
    raise ValueError('there is no model.')


def start(make=make, folder=None, version=minigpt4.__version__, **changes):
    actor = WorkerActor()
    folder = folder or os.getcwd()
    given = ActorStart(make, changes.pop('threads', 0), folder, {}, version)
    return actor, actor.start(given._replace(**changes))


def test_a_started_actor_gives_the_results_of_its_worker(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv('MINIGPT4_X', raising=False)
    threads = torch.get_num_threads()
    try:
        actor, failure = start(
            folder='/', threads=2, environment={'MINIGPT4_X': 'y'}
        )
        assert failure is None
        assert torch.get_num_threads() == 2
        assert os.getcwd() == '/' and os.environ.pop('MINIGPT4_X') == 'y'
    finally:
        torch.set_num_threads(threads)
    assert actor.run([1, 2]) == ([10, 20], None)


def test_what_was_done_before_an_error_is_returned():
    actor, _ = start()
    results, failure = actor.run([1, -1, 2])
    assert results == [10]
    assert failure.message.startswith("KeyError: 'a bug")
    assert 'not an expected error' in failure.message
    assert 'in work' in failure.traceback


def test_a_worker_that_cannot_be_made_is_a_failure():
    _, failure = start(fail)
    assert failure.message == 'there is no model.'
    assert failure.host


def test_a_machine_with_another_version_is_refused():
    _, failure = start(version='0.0.1')
    assert 'the command 0.0.1; install the same version' in failure.message


def test_a_machine_without_the_folder_is_refused(tmp_path):
    missing = str(tmp_path / 'missing')
    _, failure = start(folder=missing)
    assert f'the folder {missing} of the command is not there' in (
        failure.message
    )
