# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""One thread runs the engine; the queue is limited; closing is graceful."""

import threading
import time

import pytest

from minigpt4.generation.engine import Engine
from minigpt4.generation.worker import EngineWorker, QueueFull

PATIENCE = 120  # seconds that only a fault takes


@pytest.fixture
def start(tiny_model):
    """Function of slots and arguments to a worker, closed after the test."""
    workers = []

    def start(slots=2, **arguments):
        workers.append(
            EngineWorker(Engine(tiny_model, slots=slots), **arguments)
        )
        return workers[-1]

    yield start
    for worker in workers:
        worker.close(drain=False)


@pytest.fixture
def prompts(tiny_model, make_sample):
    collator = tiny_model.collator(training=False)
    samples = [
        make_sample([i] if i % 2 else [], 'what is a circle' + ' red' * i)
        for i in range(8)
    ]
    return [(collator.tokenize(sample), sample.images) for sample in samples]


def wait_for(condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f'not in {PATIENCE} seconds'
        time.sleep(0.005)


def hold(worker, monkeypatch, may_step):
    """Hold the steps of running requests, which would end too early."""
    step = worker.engine.step

    def held_step():
        if worker.running:
            wait_for(may_step)
        return step()

    monkeypatch.setattr(worker.engine, 'step', held_step)


def test_threads_get_their_own_answers(start, prompts, tiny_model):
    engine = Engine(tiny_model)
    expected = [engine.submit(*p, max_new_tokens=6).answer() for p in prompts]
    worker = start()
    found: dict = {}

    def ask(i):
        request = worker.submit(*prompts[i], max_new_tokens=6)
        text = ''.join(request.pieces())
        found[i] = request.answer()
        assert text == found[i].text

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=PATIENCE)
    assert [found[i] for i in range(8)] == expected
    wait_for(lambda: worker.unfinished == 0)
    assert worker.running == worker.waiting == 0


def test_a_listener_receives_all_text_and_the_end(start, prompts):
    worker = start()
    ended = threading.Event()
    pieces: list = []

    def listen(piece):
        pieces.append(piece)
        if piece is None:
            ended.set()

    request = worker.submit(*prompts[0], max_new_tokens=6)
    request.listen(listen)
    assert ended.wait(PATIENCE)
    assert ''.join(pieces[:-1]) == request.text and pieces[-1] is None


def test_a_full_queue_is_an_error(start, prompts, monkeypatch):
    worker = start(slots=1, max_waiting=2)
    may_step = threading.Event()
    hold(worker, monkeypatch, may_step.is_set)
    first = worker.submit(*prompts[0], max_new_tokens=1500)
    wait_for(lambda: worker.running == 1)
    waiting = [worker.submit(*prompts[0], max_new_tokens=2) for _ in range(2)]
    assert worker.waiting == worker.unfinished - 1 == 2
    with pytest.raises(QueueFull, match='2 requests wait already') as caught:
        worker.submit(*prompts[0])
    assert caught.value.retry_after >= 1
    first.cancel()
    may_step.set()
    for request in waiting:
        assert len(request.answer().token_ids) == 2
    assert first.finish_reason == 'cancelled'


def test_free_slots_extend_the_queue(start, prompts, monkeypatch):
    """The error names the seconds of the rounds before a request."""
    worker = start(slots=2, max_waiting=3)
    step, may_run = worker.engine.step, threading.Event()
    monkeypatch.setattr(worker.engine, 'step', lambda: step_later())

    def step_later():
        assert may_run.wait(PATIENCE)
        return step()

    worker.answer_seconds = 7.0
    requests = [worker.submit(*prompts[0], max_new_tokens=2) for _ in range(5)]
    with pytest.raises(QueueFull, match='5 requests .* 21 seconds') as caught:
        worker.submit(*prompts[0])
    assert caught.value.retry_after == 3 * 7
    worker.answer_seconds = 0.001
    with pytest.raises(QueueFull, match='in 1 seconds'):
        worker.submit(*prompts[0])
    may_run.set()
    for request in requests:
        assert len(request.answer().token_ids) == 2


def test_answer_seconds_is_a_moving_mean(start, prompts):
    clock = iter([100.0, 102.0])
    worker = start(clock=lambda: next(clock))
    worker.submit(*prompts[0], max_new_tokens=2).answer()
    expected = pytest.approx(0.8 * 1 + 0.2 * 2)
    wait_for(lambda: worker.answer_seconds == expected)


def test_a_request_before_the_thread_sleeps_is_answered(
    start, prompts, monkeypatch
):
    worker = start()
    step, late = worker.engine.step, []

    def step_and_submit():
        more = step()
        if not more and not late:  # between this and the wait
            late.append(worker.submit(*prompts[0], max_new_tokens=2))
        return more

    monkeypatch.setattr(worker.engine, 'step', step_and_submit)
    worker.submit(*prompts[1], max_new_tokens=2).answer()
    wait_for(lambda: late and late[0].finished)
    assert len(late[0].token_ids) == 2


def test_a_waiting_request_can_be_cancelled(start, prompts, monkeypatch):
    worker, requests = start(slots=1), []
    hold(
        worker,
        monkeypatch,
        lambda: any(r.cancelled and not r.finished for r in requests),
    )
    first = worker.submit(*prompts[0], max_new_tokens=1500)
    wait_for(lambda: worker.running == 1)
    waiting = worker.submit(*prompts[1])
    requests += [first, waiting]
    waiting.cancel()
    assert waiting.answer().text == '' and not first.finished
    assert waiting.finish_reason == 'cancelled'
    wait_for(lambda: worker.unfinished == 1)
    assert worker.cancel_all() == 1
    wait_for(lambda: first.finished)


def test_close_finishes_the_requests(start, prompts):
    worker = start(slots=1)
    requests = [worker.submit(*p, max_new_tokens=20) for p in prompts[:3]]
    worker.close()
    assert [r.finish_reason for r in requests] == ['length'] * 3
    with pytest.raises(RuntimeError, match='takes no more requests'):
        worker.submit(*prompts[0])
    worker.close()  # again, without an effect
    # the caller of the engine runs its steps again
    assert not worker.alive and not worker.engine.has_worker
    request = worker.engine.submit(*prompts[0], max_new_tokens=2)
    assert request.answer().token_ids


def test_close_without_draining_cancels(start, prompts, monkeypatch):
    worker, requests = start(slots=1), []
    hold(
        worker,
        monkeypatch,
        lambda: len(requests) == 3 and all(r.cancelled for r in requests),
    )
    for prompt in prompts[:3]:
        requests.append(worker.submit(*prompt, max_new_tokens=1500))
    wait_for(lambda: worker.running == 1)
    worker.close(drain=False)
    assert {r.finish_reason for r in requests} == {'cancelled'}


@pytest.mark.parametrize(
    'owner, method', [('runner', 'decode'), ('prefix_cache', 'store')]
)
def test_an_error_of_the_engine_ends_the_request(
    start, prompts, monkeypatch, owner, method
):
    worker = start()
    with monkeypatch.context() as patch:
        patch.setattr(
            getattr(worker.engine, owner), method, lambda *_, **__: 1 / 0
        )
        running = worker.submit(*prompts[0], max_new_tokens=500)
        short = worker.submit(*prompts[1], max_new_tokens=1)
        with pytest.raises(ZeroDivisionError):
            running.answer()
        wait_for(lambda: short.finished)
    good = worker.submit(*prompts[1], max_new_tokens=5)
    assert len(good.answer().token_ids) == 5


def test_invalid_requests_are_refused_in_the_callers_thread(start, prompts):
    worker = start()
    with pytest.raises(ValueError, match='unknown generation setting'):
        worker.submit(*prompts[0], size=3)
    assert worker.unfinished == worker.waiting == 0
