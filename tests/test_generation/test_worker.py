# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""One thread answers many; the queue has an end; closing is graceful."""

import threading
import time
from types import SimpleNamespace

import pytest

from minigpt4.generation.engine import Engine
from minigpt4.generation.worker import EngineWorker, QueueFull


@pytest.fixture
def start(tiny_model):
    """Function of slots and places to a worker, closed after the test."""
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
def rows(tiny_model, make_sample):
    collator = tiny_model.collator(training=False)
    samples = [
        make_sample([i] if i % 2 else [], 'what is a circle' + ' red' * i)
        for i in range(8)
    ]
    return [(collator.row(sample), sample.images) for sample in samples]


def wait_for(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, 'it never came'
        time.sleep(0.005)


def test_many_threads_get_their_own_answers(start, rows, tiny_model):
    engine = Engine(tiny_model)
    want = [engine.submit(*row, max_new_tokens=6).answer() for row in rows]
    worker = start()
    found: dict = {}

    def ask(i):
        generation = worker.submit(*rows[i], max_new_tokens=6)
        text = ''.join(generation.pieces())
        found[i] = generation.answer()
        assert text == found[i].text

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert [found[i] for i in range(8)] == want
    wait_for(lambda: not worker.running and not worker.waiting)
    assert not worker._began


def test_a_listener_hears_all_and_the_end(start, rows):
    worker = start()
    ended = threading.Event()
    pieces: list = []

    def listen(piece):
        pieces.append(piece)
        if piece is None:
            ended.set()

    generation = worker.submit(*rows[0], max_new_tokens=6)
    generation.listen(listen)
    assert ended.wait(20)
    assert ''.join(pieces[:-1]) == generation.text and pieces[-1] is None


def test_a_full_queue_says_when_to_come_again(start, rows):
    worker = start(slots=1, max_waiting=2)
    first = worker.submit(*rows[0], max_new_tokens=1500)
    wait_for(lambda: worker.running == 1)
    waiting = [worker.submit(*rows[0], max_new_tokens=2) for _ in range(2)]
    assert worker.waiting == 2
    with pytest.raises(QueueFull, match='2 requests wait already') as caught:
        worker.submit(*rows[0])
    assert caught.value.retry_after >= 1
    first.cancel()
    for generation in waiting:
        assert len(generation.answer().token_ids) == 2
    assert first.finish_reason == 'cancelled'


def test_free_slots_are_places_too(start, rows):
    """And who comes too late is told to wait for as many rounds."""
    worker = start(slots=2, max_waiting=3)
    worker._seconds = 7.0
    with worker.engine._lock:  # nobody is admitted
        generations = [
            worker.submit(*rows[0], max_new_tokens=2) for _ in range(5)
        ]
        with pytest.raises(QueueFull, match='5 requests .* 21 seconds') as e:
            worker.submit(*rows[0])
        assert e.value.retry_after == 3 * 7
        worker._seconds = 0.001
        with pytest.raises(QueueFull, match='in 1 seconds'):
            worker.submit(*rows[0])
    for generation in generations:
        assert len(generation.answer().token_ids) == 2


def test_the_time_of_an_answer_is_a_moving_mean(start, rows, monkeypatch):
    worker = start()
    clock = iter([100.0, 102.0])
    monkeypatch.setattr(
        'minigpt4.generation.worker.time',
        SimpleNamespace(monotonic=lambda: next(clock)),
    )
    worker.submit(*rows[0], max_new_tokens=2).answer()
    wait_for(lambda: worker._seconds == pytest.approx(0.8 * 1 + 0.2 * 2))


def test_who_comes_while_the_thread_falls_asleep_is_answered(start, rows):
    worker = start()
    step, late = worker.engine.step, []

    def slow_step():
        more = step()
        if not more and not late:  # between this and the wait
            late.append(worker.submit(*rows[0], max_new_tokens=2))
        return more

    worker.engine.step = slow_step
    worker.submit(*rows[1], max_new_tokens=2).answer()
    wait_for(lambda: late and late[0].finished)
    assert len(late[0].token_ids) == 2


def test_a_request_that_waits_can_be_cancelled(start, rows):
    worker = start(slots=1)
    first = worker.submit(*rows[0], max_new_tokens=1500)
    waiting = worker.submit(*rows[1])
    waiting.cancel()
    assert waiting.answer().text == '' and not first.finished
    assert waiting.finish_reason == 'cancelled'


def test_close_finishes_what_runs(start, rows):
    worker = start(slots=1)
    generations = [worker.submit(*row, max_new_tokens=20) for row in rows[:3]]
    worker.close()
    assert [g.finish_reason for g in generations] == ['length'] * 3
    with pytest.raises(RuntimeError, match='takes no more requests'):
        worker.submit(*rows[0])
    worker.close()  # once more does no harm
    # the engine is its owner's again, who steps it by asking
    assert not worker.alive and not worker.engine.has_worker
    assert worker.engine.submit(*rows[0], max_new_tokens=2).answer().token_ids


def test_close_without_draining_cancels(start, rows):
    worker = start(slots=1)
    generations = [
        worker.submit(*row, max_new_tokens=1500) for row in rows[:3]
    ]
    worker.close(drain=False)
    assert {g.finish_reason for g in generations} == {'cancelled'}


def test_a_broken_engine_hangs_nobody(start, rows):
    worker = start()
    original = worker.engine._choose
    worker.engine._choose = lambda *_: 1 / 0
    broken = worker.submit(*rows[0], max_new_tokens=5)
    with pytest.raises(ZeroDivisionError):
        broken.answer()
    worker.engine._choose = original
    good = worker.submit(*rows[1], max_new_tokens=5)
    assert len(good.answer().token_ids) == 5


def test_wrong_requests_are_the_callers(start, rows):
    worker = start()
    with pytest.raises(ValueError, match='unknown generation setting'):
        worker.submit(*rows[0], size=3)
    assert not worker._began and not worker.waiting
