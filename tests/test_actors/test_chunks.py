# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Chunks in this process, and on actors in any order, some of which end."""

from collections import Counter

import pytest
from tests.fake_ray import FakeRay, use_fake

from minigpt4.actors.chunks import ActorError, run_chunks


def work(chunk):
    return [number * 10 for number in chunk]


def make():
    return work


def chunks(number):
    return iter([[i, i + 100] for i in range(number)])


def numbers(results):
    return [result for _, result in results]


EXPECTED = [n for i in range(9) for n in (i * 10, i * 10 + 1000)]


def test_in_this_process_the_chunks_are_taken_one_by_one():
    taken = []
    source = (taken.append(c) or c for c in chunks(9))
    results = run_chunks(make, source)
    assert next(results) == ([0, 100], 0)
    assert len(taken) == 1
    assert [0, *numbers(results)] == EXPECTED


@pytest.mark.parametrize('actors', [1, 3])
@pytest.mark.parametrize('ordered', [False, True])
def test_actors_give_each_result_once(monkeypatch, actors, ordered):
    ray = use_fake(monkeypatch, FakeRay(), actors)
    found = numbers(run_chunks(make, chunks(9), ordered))
    assert sorted(found) == sorted(EXPECTED)
    if ordered:
        assert found == EXPECTED
    elif actors > 1:
        assert found != EXPECTED  # as they finish
    assert max(ray.busy) <= actors
    assert ray.killed == ray.actors == actors


@pytest.mark.parametrize('ordered', [False, True])
def test_few_chunks_are_taken_ahead_of_the_results(monkeypatch, ordered):
    use_fake(monkeypatch, FakeRay(), 2)
    taken = []
    source = (taken.append(c) or c for c in chunks(99))
    for done, _ in enumerate(run_chunks(make, source, ordered)):
        assert len(taken) - done // 2 <= 2 * 2 + 1
    assert len(taken) == 99


def test_there_are_no_more_actors_than_chunks(monkeypatch):
    ray = use_fake(monkeypatch, FakeRay(), 8)
    assert len(numbers(run_chunks(make, chunks(2)))) == 4
    assert ray.actors == 2
    assert numbers(run_chunks(make, iter([]))) == []
    assert ray.actors == 2


@pytest.mark.parametrize('ordered', [False, True])
def test_the_chunk_of_an_actor_that_ended_is_done_by_another(
    monkeypatch, ordered
):
    tries = Counter()

    def ends(name, value):
        key = value[0] if name == 'run' else 'start'
        tries[key] += 1
        return key in (0, 4) and tries[key] <= 2

    ray = use_fake(monkeypatch, FakeRay(ends), 3)
    found = numbers(run_chunks(make, chunks(9), ordered))
    assert sorted(found) == sorted(EXPECTED)
    assert tries[0] == tries[4] == 3
    assert ray.actors == 3 + 4


@pytest.mark.parametrize('call', ['run', 'start'])
def test_actors_that_always_end_are_an_error(monkeypatch, call):
    ray = FakeRay(lambda name, value: name == call)
    use_fake(monkeypatch, ray, 2)
    with pytest.raises(ActorError) as raised:
        numbers(run_chunks(make, chunks(9)))
    assert str(raised.value) == (
        'actors end again and again, at last: the actor died; their machines '
        'may have too little memory for the model.'
    )
    assert ray.killed == ray.actors <= 7


def test_a_failure_comes_after_the_results_before_it(monkeypatch):
    def fail(chunk):
        yield 1
        raise ValueError('the model failed.')

    use_fake(monkeypatch, FakeRay(), 1, machines=2)
    results = run_chunks(lambda: fail, chunks(2))
    assert next(results) == ([0, 100], 1)
    with pytest.raises(ActorError, match=r'.+: the model failed\.$') as raised:
        next(results)
    assert 'in fail' in str(raised.value.__cause__)


def test_a_worker_that_cannot_be_made_is_one_error(monkeypatch):
    def make():
        raise FileNotFoundError('no such checkpoint')

    use_fake(monkeypatch, FakeRay(), 2)
    with pytest.raises(ActorError, match='^no such checkpoint$'):
        numbers(run_chunks(make, chunks(2)))
